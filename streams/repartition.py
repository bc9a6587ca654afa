"""Growing the number of partitions: moves what belongs to keys, once nothing is under way. docs/streams.md says how.

A key's new records go to another partition than its old ones. They keep their order because every group has read all of
the old ones before the first new one can be written.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import gcd
from typing import cast

from runtime.errors import FailedPreconditionError, InvalidInputError
from runtime.redis_client import Client
from streams import keys, scripts
from streams.catalog import Catalog
from streams.operations.inspect import existing_streams, groups_of, live_members, states_of
from streams.operations.snapshot import snapshots

MOVING = "mesh:repartition"
"""`{from} {to}` while partitions are being added, so that an interrupted attempt is taken up again."""

_CLOSED = 0
"""In place of the number of partitions: nobody may start."""

_PAGE = 500
_EPOCHS_OF_ONE = 1_000_000
"""More than a producer counts on by itself, one after each failure; as in claim.lua."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved or copied."""

    partitions_before: int
    partitions: int
    state_fields: int
    event_ids: int
    producers_fenced: int


async def repartition(redis: Client, catalog: Catalog, partitions: int) -> Moved:
    """Grow from the catalog's number of partitions to a higher one. Every process of the mesh must be stopped.

    State moves with its keys (the fields of `Outputs.state` must be keys of records); event ids and fences are copied
    to where their records may go now; producers and members that were forgotten are fenced. May be called again after
    it was interrupted.

    Raises InvalidInputError for a number that is not higher, FailedPreconditionError, before anything is changed, when
    a member is alive or a group that is not dropped has records left (reason NOT_DRAINED).
    """
    before = catalog.partitions
    if partitions <= before:
        raise InvalidInputError.of_field("partitions", f"must be more than {before}: partitions are only ever added")
    plan = f"{before} {partitions}"
    bound = int(await redis.get(keys.PARTITIONS) or before)
    moving = cast(bytes, await redis.get(MOVING) or b"").decode()
    if bound != before and (bound, moving) != (_CLOSED, plan):
        raise FailedPreconditionError(
            f"the streams of this Redis have {bound} partitions (under way: {moving or 'nothing'}), not {before}",
            reason="PARTITIONS_DIFFER",
        )
    if bound == before:
        await _require_drained(redis, catalog)  # so as to disturb nobody in vain
        await redis.set(MOVING, plan)
        await redis.set(keys.PARTITIONS, _CLOSED)
    fenced = await _fence_producers(redis, partitions)
    if bound == before:
        try:
            await _require_drained(redis, catalog)  # someone may have come in meanwhile
        except BaseException:
            await redis.set(keys.PARTITIONS, before)
            await redis.delete(MOVING)
            raise
    after = catalog.model_copy(update={"partitions": partitions})
    moved = Moved(
        before,
        partitions,
        producers_fenced=fenced,
        state_fields=await _move_state(redis, after),
        event_ids=await _copy_event_ids(redis, before, partitions),
    )
    await _copy_fences(redis, partitions)
    await _end_leases(redis)
    await redis.set(keys.PARTITIONS, partitions)
    await redis.delete(MOVING)
    return moved


async def _require_drained(redis: Client, catalog: Catalog) -> None:
    faults: list[str] = []
    for stream in await existing_streams(redis, catalog):
        names = await groups_of(redis, stream, catalog.partitions)
        found = await snapshots(redis, stream.name, names, catalog.partitions)
        for name in names:
            alive = await live_members(redis, stream.name, name, found)
            left = sum(state.lag_records + state.pending for state in states_of(name, found) if not state.dropped)
            if alive:
                faults.append(f"{stream.name}: {len(alive)} members of {name} are alive")
            if left:
                faults.append(f"{stream.name}: {name} has {left} records left")
    if faults:
        raise FailedPreconditionError(
            "not drained: "
            + "; ".join(faults)
            + ". Stop the producers first, let the groups read all, then stop them; "
            "or drop a group (quantmesh streams groups drop)",
            reason="NOT_DRAINED",
        )


async def _of_kind(redis: Client, kind: str) -> AsyncIterator[tuple[str, int, str]]:
    """Keys like `{kind}:{3}:name`, with their partition and name."""
    async for key in redis.scan_iter(match=f"{kind}:{{*}}:*", count=_PAGE):
        match = re.fullmatch(kind + r":\{(\d+)\}:(.+)", key.decode())
        if match:
            yield match[0], int(match[1]), match[2]


async def _move_state(redis: Client, after: Catalog) -> int:
    count = 0
    async for key, partition, name in _of_kind(redis, "state"):
        async for field, value in redis.hscan_iter(key, count=_PAGE):
            target = after.partition_of(field.decode())
            if target != partition:
                await redis.hset(keys.state(name, target), field, value)
                await redis.hdel(key, field)
                count += 1
    return count


async def _copy_event_ids(redis: Client, before: int, partitions: int) -> int:
    """An id does not tell its key, so it goes wherever a key of its partition can go now."""
    step, count = gcd(before, partitions), 0
    async for key, partition, name in _of_kind(redis, "seen"):
        targets = [target for target in range(partition % step, partitions, step) if target != partition]
        page: list[bytes] = []
        async for event_id in redis.sscan_iter(key, count=_PAGE):
            page.append(event_id)
            count += 1
            if len(page) >= _PAGE:
                await _add_ids(redis, key, name, targets, page)
                page = []
        if page:
            await _add_ids(redis, key, name, targets, page)
    return count


async def _add_ids(redis: Client, key: str, name: str, targets: list[int], ids: list[bytes]) -> None:
    """To the same bucket of the targets, for as long as they would be known where they are."""
    stream, _, bucket = name.rpartition(":")
    for target in targets:
        left_ms = await redis.pttl(key)
        if left_ms > 0:  # else their time ended meanwhile
            await scripts.add_event_ids(redis, stream, target, int(bucket), ids, left_ms)


async def _copy_fences(redis: Client, partitions: int) -> None:
    highest: dict[str, int] = defaultdict(int)
    async for key, _, strategy in _of_kind(redis, "fence"):
        highest[strategy] = max(highest[strategy], int(await redis.get(key) or 0))
    for strategy, generation in highest.items():
        for partition in range(partitions):
            await scripts.raise_fence(redis, strategy, partition, generation)


async def _fence_producers(redis: Client, partitions: int) -> int:
    """Whoever still counts with the old number of partitions must not write; a producer that begins with its id may.

    The fence lies above what is known of each: by a clock, of a client or of the server, it might lie below, for epochs
    begin at the clocks of producers; or above those that begin later.
    """
    known: dict[str, int] = defaultdict(int)
    async for key, _, producer_id in _of_kind(redis, "producer"):
        known[producer_id] = max(known[producer_id], int(await redis.hget(key, "epoch") or 0))
    for producer_id, highest in known.items():
        epoch = highest + _EPOCHS_OF_ONE
        if await redis.exists(keys.producer_epoch(producer_id)):  # else nobody begins with this id again
            epoch = await scripts.claim(redis, producer_id, epoch)
        for partition in range(partitions):
            key = keys.producer(producer_id, partition)
            await redis.hset(key, "epoch", str(epoch))
            await redis.pexpire(key, 24 * 3_600_000)
    return len(known)


async def _end_leases(redis: Client) -> None:
    async for key, _, _ in _of_kind(redis, "group"):
        if await redis.hexists(key, "epoch"):
            await redis.hincrby(key, "epoch", 1)
            await redis.hset(key, "owner", "")
