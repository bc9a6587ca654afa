"""Members that come, leave and die under load: how long partitions have no owner, and that nothing is lost by it.

The members are processes of their own, so that a killed one renews nothing.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from runtime.redis_client import connect
from streams import Outputs, OutRecord, Processor, Producer, Record, keys
from streams.leases import LEASE_MS
from tests.chaos.streams.effects import Effect, Verdict, judge
from tests.chaos.streams.schedules import PARTITIONS, RAW, VECTORS, Schedule, peaceful
from tests.waiting import until

GROUP = "feature_processor"
SLACK_S = 0.3
"""For a machine on which much else runs."""


@contextmanager
def member(url: str, name: str, lease_ms: int = 600) -> Iterator[subprocess.Popen[bytes]]:
    """A member that runs."""
    command = [sys.executable, "-m", "tests.chaos.streams.workers", url, name, str(lease_ms)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def owners(redis: Redis) -> list[str]:
    """Who owns each partition by a lease that is not over; empty for nobody."""
    seconds, micros = await redis.time()
    now_ms = seconds * 1000 + micros // 1000
    found = []
    for partition in range(PARTITIONS):
        owner, until_ms = await redis.hmget(keys.group(RAW, GROUP, partition), "owner", "until_ms")
        found.append(owner.decode() if owner and int(until_ms) > now_ms else "")
    return found


async def unowned_s(redis: Redis, heir: str, limit_s: float = 15.0) -> float:
    """Wait until the heir has all partitions; returns the longest time that one of them had no owner meanwhile."""
    since: dict[int, float] = {}
    longest, deadline = 0.0, time.monotonic() + limit_s
    while True:
        now = time.monotonic()
        found = await owners(redis)
        for partition, owner in enumerate(found):
            if not owner:
                since.setdefault(partition, now)
            elif partition in since:
                longest = max(longest, now - since.pop(partition))
        if set(found) == {heir}:
            return longest
        assert now < deadline, f"the partitions have {found}"
        await asyncio.sleep(0.002)


async def shared(redis: Redis) -> bool:
    return set(await owners(redis)) == {"heir", "other"}


async def test_after_a_graceful_leave_no_partition_is_without_an_owner_for_long(redis: Redis, redis_url: str) -> None:
    with member(redis_url, "heir", LEASE_MS), member(redis_url, "other", LEASE_MS) as leaving:
        await until(lambda: shared(redis))
        leaving.terminate()
        assert await unowned_s(redis, "heir") < 0.5 + SLACK_S


@pytest.mark.parametrize("lease_ms", [600, LEASE_MS])
async def test_a_killed_members_partitions_are_owned_again_within_two_leases(
    redis: Redis, redis_url: str, lease_ms: int
) -> None:
    with member(redis_url, "heir", lease_ms), member(redis_url, "other", lease_ms) as doomed:
        await until(lambda: shared(redis))
        killed = time.monotonic()
        doomed.kill()
        await unowned_s(redis, "heir")
        assert time.monotonic() - killed < 2 * lease_ms / 1000 + SLACK_S


async def test_members_that_come_and_go_under_load_lose_and_repeat_nothing(redis: Redis, redis_url: str) -> None:
    schedule = peaceful(2, records=4000)
    producing = [asyncio.create_task(_publish(redis, schedule, number)) for number in range(2)]
    with member(redis_url, "stays"):
        for turn in range(2):
            with member(redis_url, f"a{turn}"), member(redis_url, f"b{turn}") as leaving:
                await until(lambda turn=turn: _all_own(redis, {"stays", f"a{turn}", f"b{turn}"}))  # type: ignore[misc]
                leaving.terminate()
                await until(lambda turn=turn: _all_own(redis, {"stays", f"a{turn}"}))  # type: ignore[misc]
            # a{turn} is killed
        await asyncio.gather(*producing)
        await until(lambda: _as_many(redis, schedule), limit_s=20)
    assert await _verdict(redis, schedule) == Verdict(records=4000)


async def _publish(redis: Redis, schedule: Schedule, number: int) -> None:
    source = schedule.source(number)
    async with Producer(redis, schedule.catalog) as producer:
        for start in range(0, len(source), 10):
            await producer.send_many(source[start : start + 10])
            await asyncio.sleep(0.02)


async def _all_own(redis: Redis, names: set[str]) -> bool:
    return set(await owners(redis)) == names


async def _as_many(redis: Redis, schedule: Schedule) -> bool:
    lengths = [await redis.xlen(keys.entries(VECTORS, partition)) for partition in range(PARTITIONS)]
    return sum(lengths) >= sum(map(len, schedule.published.values()))


async def _verdict(redis: Redis, schedule: Schedule) -> Verdict:
    found: list[Effect] = []
    for partition in range(PARTITIONS):
        entries = await redis.xrange(keys.entries(VECTORS, partition))
        found += [Effect.of(fields[keys.PAYLOAD]) for _, fields in entries]
    return judge(schedule.published, found)


async def test_a_processor_that_a_full_stream_holds_can_be_stopped(redis: Redis, redis_url: str) -> None:
    schedule, roomy = replace(peaceful(3), high_water=10), peaceful(3)
    records = [OutRecord(RAW, key, f"{key}|{n}".encode()) for n in range(1, 40) for key in schedule.keys]
    await Producer(redis, roomy.catalog).send_many(records)

    async def copy(partition: int, found: Sequence[Record]) -> Outputs:
        return Outputs([OutRecord(VECTORS, r.payload.partition(b"|")[0].decode(), r.payload) for r in found])

    client = connect(redis_url)
    processor = Processor(client, schedule.catalog, RAW, copy, batch_size=8)
    task = asyncio.create_task(processor.run())

    async def held() -> bool:
        return min([await redis.xlen(keys.entries(VECTORS, partition)) for partition in range(PARTITIONS)]) >= 8

    try:
        await until(held)
        await asyncio.sleep(0.2)
        processor.stop()
        done, _ = await asyncio.wait({task}, timeout=3)
        assert done, "it waits for room that nobody makes"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()
