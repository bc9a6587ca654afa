"""What operators do to groups, on a real server with real members."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime.errors import ConfigurationError, FailedPreconditionError, NotFoundError
from runtime.redis_client import Client
from streams import Outputs, OutRecord, Processor, Producer, Record, keys, load_catalog, scripts
from streams.jobs import Job
from streams.operations import current_lag
from streams.operations.groups import drop_group, rebalance
from streams.operations.inspect import bound_partitions, existing_streams, groups_of, live_members, states_of
from streams.operations.snapshot import snapshots
from streams.work_queue import WorkQueue
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
RAW = CATALOG.stream("features.raw")
GROUP = RAW.group


async def publish(redis: Client, count: int, stream: str = "features.raw") -> None:
    await Producer(redis, CATALOG).send_many([OutRecord(stream, f"K{n % 16}", f"{n}".encode()) for n in range(count)])


async def copy(partition: int, records: Sequence[Record]) -> Outputs:
    return Outputs()


@asynccontextmanager
async def member(redis: Client, name: str, group: str | None = None) -> AsyncIterator[None]:
    processor = Processor(redis, CATALOG, RAW.name, copy, member=name, lease_ms=1000, group=group)
    task = asyncio.create_task(processor.run())
    try:
        yield
    finally:
        processor.stop()
        await task


async def owners(redis: Client) -> set[str]:
    return {state.owner for state in states_of(GROUP, await snapshots(redis, RAW.name, [GROUP], 4))}


async def test_the_lag_is_in_records_and_ms_until_the_group_has_caught_up(redis: Client) -> None:
    assert (await current_lag(redis, CATALOG, RAW.name, GROUP)).records == 0
    await publish(redis, 100)
    await until(lambda: _older_than(redis, 20))
    assert (await current_lag(redis, CATALOG, RAW.name, GROUP)).records == 100
    async with member(redis, "a"):
        await until(lambda: _caught_up(redis))
    found = await current_lag(redis, CATALOG, RAW.name, GROUP)
    assert (found.records, found.ms, found.pending, found.dropped) == (0, 0, 0, False)


async def _older_than(redis: Client, ms: int) -> bool:
    return (await current_lag(redis, CATALOG, RAW.name, GROUP)).ms > ms


async def _caught_up(redis: Client) -> bool:
    return (await current_lag(redis, CATALOG, RAW.name, GROUP)).ms == 0


async def test_the_lag_never_exceeds_what_is_there(redis: Client) -> None:
    """A stream that drops the oldest takes records that a group has not read."""
    await publish(redis, 100, "market_data.l1")
    for partition in range(4):
        await redis.xtrim(keys.entries("market_data.l1", partition), maxlen=3, approximate=False)
    assert (await current_lag(redis, CATALOG, "market_data.l1", "market_data_consumer")).records == 12


async def test_groups_that_are_not_declared_are_found_and_live_members_are_named(redis: Client) -> None:
    async with member(redis, "a"), member(redis, "b"), member(redis, "c", group="audit"):
        await until(lambda: _owned_by(redis, {"a", "b"}))

        async def audit_is_there() -> bool:
            return await groups_of(redis, RAW, 4) == [GROUP, "audit"]

        await until(audit_is_there)
        # A member that is held up for as long as its lease is not alive, until it is back.
        await until(lambda: _alive(redis, {GROUP: ["a", "b"], "audit": ["c"]}))
    assert await live_members(redis, RAW.name, GROUP, await snapshots(redis, RAW.name, [GROUP], 4)) == []


async def _alive(redis: Client, expected: dict[str, list[str]]) -> bool:
    parts = await snapshots(redis, RAW.name, list(expected), 4)
    return {group: await live_members(redis, RAW.name, group, parts) for group in expected} == expected


async def do(job: Job) -> None:
    return None


@pytest.mark.parametrize("kind", [Processor, WorkQueue])
async def test_a_member_that_has_left_is_not_alive_by_a_heartbeat_that_was_under_way(
    redis: Client, monkeypatch: pytest.MonkeyPatch, kind: type[Processor] | type[WorkQueue]
) -> None:
    beat, left, under_way = scripts.heartbeat, asyncio.Event(), 0

    async def overtaken(*arguments: Any, leave: bool = False) -> list[str]:
        """A heartbeat that the leave overtakes."""
        nonlocal under_way
        if leave:
            answer = await beat(*arguments, leave=True)
            left.set()
            await until(lambda: under_way == 0)
            return answer
        under_way += 1
        try:
            await left.wait()
            return await beat(*arguments)
        finally:
            under_way -= 1

    monkeypatch.setattr(scripts, "heartbeat", overtaken)
    leaving = (
        Processor(redis, CATALOG, RAW.name, copy) if kind is Processor else WorkQueue(redis, CATALOG, RAW.name, do)
    )
    running = asyncio.create_task(leaving.run())
    await until(lambda: under_way == 1)
    leaving.stop()
    await running
    assert await redis.zcard(keys.members(RAW.name, GROUP)) == 0


async def _owned_by(redis: Client, names: set[str]) -> bool:
    return await owners(redis) == names


async def test_a_live_group_is_not_dropped_and_a_dead_one_is_until_it_comes_back(redis: Client) -> None:
    await publish(redis, 10)
    async with member(redis, "a"):
        await until(lambda: _owned_by(redis, {"a"}))
        with pytest.raises(FailedPreconditionError, match="a") as caught:
            await drop_group(redis, RAW, GROUP, 4)
        assert caught.value.reason == "GROUP_ALIVE"
        assert not (await current_lag(redis, CATALOG, RAW.name, GROUP)).dropped
    await drop_group(redis, RAW, GROUP, 4)
    assert (await current_lag(redis, CATALOG, RAW.name, GROUP)).dropped
    async with member(redis, "a"):
        await until(lambda: _owned_by(redis, {"a"}))
        assert not (await current_lag(redis, CATALOG, RAW.name, GROUP)).dropped


async def test_a_group_that_nobody_knows_is_refused_with_those_that_are(redis: Client) -> None:
    with pytest.raises(NotFoundError, match=GROUP):
        await drop_group(redis, RAW, "nobody", 4)


async def test_a_rebalance_ends_the_leases_and_members_share_again(redis: Client) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        await rebalance(redis, RAW, GROUP, 4, 1.0)
    assert caught.value.reason == "GROUP_DEAD"
    async with member(redis, "a"), member(redis, "b"):
        await until(lambda: _owned_by(redis, {"a", "b"}))
        before = {p.partition: p.groups[0].epoch for p in await snapshots(redis, RAW.name, [GROUP], 4)}
        feeding = asyncio.create_task(_feed(redis))  # an owner finds out by its next commit
        try:
            after = await rebalance(redis, RAW, GROUP, 4, 10.0)
        finally:
            feeding.cancel()
        assert {part.groups[0].owner for part in after} == {"a", "b"}
        assert all(part.groups[0].epoch > before[part.partition] for part in after)


async def _feed(redis: Client) -> None:
    while True:
        await publish(redis, 16)
        await asyncio.sleep(0.02)


async def test_a_template_stands_for_its_streams_and_for_nothing_that_looks_like_one(redis: Client) -> None:
    await publish(redis, 4, "signals.momentum")
    await publish(redis, 4, "signals.value")
    await redis.xadd("signals.NOT ONE:{0}", {"x": "y"})
    await redis.set("signals.string:{0}", "z")
    names = [stream.name for stream in await existing_streams(redis, CATALOG)]
    assert [name for name in names if name.startswith("signals")] == ["signals.momentum", "signals.value"]
    assert "orders" in names


async def test_the_servers_number_of_partitions_counts_unless_another_was_set(redis: Client) -> None:
    assert await bound_partitions(redis, 8, is_set=True) == 8
    await publish(redis, 1)
    assert await bound_partitions(redis, 8, is_set=False) == 4
    with pytest.raises(ConfigurationError, match="QUANTMESH_PARTITIONS to 4"):
        await bound_partitions(redis, 8, is_set=True)
