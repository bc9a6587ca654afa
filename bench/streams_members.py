"""How long partitions are without an owner when a member dies (SIGKILL) and when it leaves (SIGTERM).

Two members at their defaults share four partitions. The lease in Redis is looked at every two milliseconds; times are
of the partition that waits longest.
"""

from __future__ import annotations

import asyncio
import signal
import time

from redis.asyncio import Redis

from bench.streams_report import Section, spread
from bench.streams_workload import CATALOG, SOURCE, Worker
from streams import keys
from streams.leases import LEASE_MS

KILL_S, LEAVE_S = min(2 * LEASE_MS / 1000, 5.0), 0.5
_LOOK_S = 0.002
_LIMIT_S = 30.0


async def measure(url: str, rounds: int) -> Section:
    """A survivor, and one member after another that goes."""
    killed: list[float] = []
    left: list[float] = []
    async with Redis.from_url(url) as redis:
        await redis.flushall()
        with Worker("member", url, name="survivor") as survivor:
            survivor.said()
            for n in range(rounds):
                killed.append(await _without_owner(redis, url, f"killed{n}", signal.SIGKILL))
                left.append(await _without_owner(redis, url, f"left{n}", signal.SIGTERM))
    table = Section(f"Members: two share {CATALOG.partitions} partitions, lease {LEASE_MS / 1000:g} s, {rounds} rounds")
    table.add(
        "SIGKILL: until its partitions are owned again",
        spread([seconds * 1000 for seconds in killed], "ms"),
        f"≤ {KILL_S:g} s, all (2 x lease)",
        max(killed) <= KILL_S,
    )
    table.add(
        "SIGTERM: partitions without an owner",
        spread([seconds * 1000 for seconds in left], "ms"),
        f"< {LEAVE_S * 1000:g} ms, all",
        max(left) < LEAVE_S,
    )
    return table


async def _without_owner(redis: Redis, url: str, name: str, how: signal.Signals) -> float:
    """Seconds from its death (SIGKILL), or from its giving back (SIGTERM), until the survivor owns a partition."""
    with Worker("member", url, name=name) as leaver:
        leaver.said()
        await _owned_half(redis, name)
        # Not always at the same point of the heartbeats.
        await asyncio.sleep(time.monotonic() % 0.5)
        gone: dict[int, float] = {}
        owned: dict[int, float] = {}
        began = time.monotonic()
        leaver.process.send_signal(how)
        held = {p for p, owner in (await _owners(redis)).items() if owner == name} or set(range(CATALOG.partitions))
        while not owned.keys() >= held:
            owners, now = await _owners(redis), time.monotonic()
            for partition in held:
                if how is signal.SIGKILL or owners[partition] != name:
                    gone.setdefault(partition, began if how is signal.SIGKILL else now)
                if owners[partition] == "survivor":
                    owned.setdefault(partition, now)
            if now - began > _LIMIT_S:
                raise RuntimeError(f"still without an owner: {sorted(held - owned.keys())}")
            await asyncio.sleep(_LOOK_S)
        return max(owned[partition] - gone[partition] for partition in held)


async def _owned_half(redis: Redis, name: str) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while sorted((await _owners(redis)).values()).count(name) != CATALOG.partitions // 2:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} never got its share")
        await asyncio.sleep(0.02)


async def _owners(redis: Redis) -> dict[int, str]:
    pipeline = redis.pipeline(transaction=False)
    for partition in range(CATALOG.partitions):
        pipeline.hget(keys.group(SOURCE, CATALOG.stream(SOURCE).group, partition), "owner")
    return {partition: (owner or b"").decode() for partition, owner in enumerate(await pipeline.execute())}
