"""The processor on a real server. Effects are counted in the output stream, never by counting commits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from quantmesh.streams.v1 import dead_letter_pb2
from runtime.process import ended
from runtime.redis_client import capabilities
from streams import Outputs, OutRecord, Poison, Processor, Producer, Record, keys, load_catalog, raise_fences, scripts
from streams.processor import Transform
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
KEYS = [f"K{n}" for n in range(16)]


@asynccontextmanager
async def running(processor: Processor) -> AsyncIterator[Processor]:
    task = asyncio.create_task(processor.run())
    try:
        yield processor
    finally:
        processor.stop()
        await task


async def publish(redis: Redis, count: int) -> None:
    records = [
        OutRecord("features.raw", KEYS[n % len(KEYS)], f"{KEYS[n % len(KEYS)]}|{n}".encode()) for n in range(count)
    ]
    await Producer(redis, CATALOG).send_many(records)


async def copy(partition: int, records: Sequence[Record]) -> Outputs:
    return Outputs([OutRecord("features.pit", r.payload.partition(b"|")[0].decode(), r.payload) for r in records])


async def outputs(redis: Redis, stream: str = "features.pit") -> list[str]:
    found: list[str] = []
    for partition in range(CATALOG.partitions):
        found += [f[keys.PAYLOAD].decode() for _, f in await redis.xrange(keys.entries(stream, partition))]
    return found


def assert_each_once_in_order(found: Sequence[str], count: int) -> None:
    repeated = [text for text, times in Counter(found).items() if times > 1]
    assert not repeated, f"duplicated: {repeated[:5]}"
    assert len(found) == count, f"{count - len(found)} lost"
    for key in KEYS:
        numbers = [int(text.partition("|")[2]) for text in found if text.startswith(f"{key}|")]
        assert numbers == sorted(numbers), f"{key} out of order"


def started(redis: Redis, transform: Transform = copy, **options: object) -> Processor:
    return Processor(redis, CATALOG, "features.raw", transform, **{"batch_size": 20, **options})  # type: ignore[arg-type]


async def all_there(redis: Redis, count: int) -> bool:
    return len(await outputs(redis)) >= count


async def test_each_record_has_its_effect_once_and_the_group_shows_it(redis: Redis) -> None:
    await publish(redis, 1000)
    async with running(started(redis)):
        await until(lambda: all_there(redis, 1000))
    assert_each_once_in_order(await outputs(redis), 1000)
    for partition in range(CATALOG.partitions):
        (group,) = await redis.xinfo_groups(keys.entries("features.raw", partition))
        assert group["name"] == b"feature_processor"
        if (await capabilities(redis)).entries_read:
            assert group["lag"] == 0


async def test_members_share_join_and_leave_without_a_lost_or_repeated_record(redis: Redis) -> None:
    publishing = asyncio.create_task(publish(redis, 3000))
    async with running(started(redis, member="a", lease_ms=400)):
        async with running(started(redis, member="b", lease_ms=400)), running(started(redis, member="c", lease_ms=400)):
            await publishing

            async def shared() -> bool:
                owners = {
                    await redis.hget(keys.group("features.raw", "feature_processor", p), "owner") for p in range(4)
                }
                return owners == {b"a", b"b", b"c"}

            await until(shared)
        await until(lambda: all_there(redis, 3000))
    assert_each_once_in_order(await outputs(redis), 3000)


async def test_a_member_that_stopped_renewing_is_replaced_and_its_late_commit_refused(redis: Redis) -> None:
    """A zombie: it read, fell asleep before its commit, and lost the lease meanwhile."""
    await publish(redis, 200)
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def sleepy(partition: int, records: Sequence[Record]) -> Outputs:
        asleep.set()
        await wake.wait()
        return await copy(partition, records)

    # Its owners without their heartbeat: as in a process that is stopped, nothing renews their leases.
    zombie, release = started(redis, sleepy, member="zombie", lease_ms=300), asyncio.Event()
    owners = [asyncio.create_task(zombie._own(partition, release)) for partition in range(CATALOG.partitions)]
    await asleep.wait()
    async with running(started(redis, member="heir", lease_ms=300)):
        await until(lambda: all_there(redis, 200))
        release.set()
        wake.set()
        await asyncio.gather(*owners)
    assert_each_once_in_order(await outputs(redis), 200)


async def test_a_commit_whose_answer_was_lost_counts_as_done(redis: Redis) -> None:
    stream = CATALOG.stream("features.raw")
    taken = await scripts.acquire(redis, stream, "feature_processor", 0, "me", 1000)
    assert taken is not None
    lease, offset = taken

    async def commit() -> scripts.Committed:
        return await scripts.commit(
            redis,
            stream,
            "feature_processor",
            0,
            lease,
            expected_offset=offset,
            new_offset="5-0",
            read=1,
            outputs=Outputs([OutRecord("features.pit", "any", b"x")]),
            output_streams={"features.pit": (CATALOG.stream("features.pit"), 0)},
            entries_read=(await capabilities(redis)).entries_read,
        )

    assert await commit() == scripts.Committed("OK")
    assert await commit() == scripts.Committed("OK")
    assert await redis.xlen(keys.entries("features.pit", 0)) == 1


async def test_state_is_committed_with_the_outputs_and_loaded_again(redis: Redis) -> None:
    counts: dict[int, int] = {}

    async def load(partition: int) -> None:
        counts[partition] = int(await redis.hget(keys.state("count", partition), "n") or 0)

    async def count(partition: int, records: Sequence[Record]) -> Outputs:
        counts[partition] += len(records)
        result = await copy(partition, records)
        result.state["count"] = {"n": str(counts[partition]).encode()}
        return result

    for total in (300, 600):
        await publish(redis, 300)
        async with running(started(redis, count, on_assigned=load)):
            await until(lambda total=total: all_there(redis, total))  # type: ignore[misc]
        counts.clear()
    stored = [int(await redis.hget(keys.state("count", p), "n") or 0) for p in range(4)]
    assert sum(stored) == 600


async def test_a_poison_record_goes_to_the_dead_letters_whole(redis: Redis) -> None:
    await publish(redis, 32)

    async def refuse_seven(partition: int, records: Sequence[Record]) -> Outputs:
        good = [r for r in records if not r.payload.endswith(b"|7")]
        result = await copy(partition, good)
        result.dead = [Poison(r, "UNLUCKY", "seven") for r in records if r.payload.endswith(b"|7")]
        return result

    async with running(started(redis, refuse_seven)):
        await until(lambda: all_there(redis, 31))
    entries = await redis.xrange(keys.dead_letters("features.raw", CATALOG.partition_of("K7")))
    letters = [dead_letter_pb2.DeadLetter.FromString(fields[keys.PAYLOAD]) for _, fields in entries]
    assert [(x.stream, x.group, x.reason, x.error, x.payload) for x in letters] == [
        ("features.raw", "feature_processor", "UNLUCKY", "seven", b"K7|7")
    ]


async def test_a_transform_that_fails_is_tried_again_and_nothing_is_lost(redis: Redis) -> None:
    await publish(redis, 100)
    failures = 0

    async def flaky(partition: int, records: Sequence[Record]) -> Outputs:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise RuntimeError("not yet")
        return await copy(partition, records)

    async with running(started(redis, flaky)):
        await until(lambda: all_there(redis, 100))
    assert failures == 3
    assert_each_once_in_order(await outputs(redis), 100)


async def test_a_raised_fence_refuses_outputs_of_an_older_generation(redis: Redis) -> None:
    await publish(redis, 100)
    await raise_fences(redis, CATALOG, "momentum", 5)
    await raise_fences(redis, CATALOG, "momentum", 3)  # never goes down
    generation = 4
    met: list[tuple[str, int]] = []

    async def score(partition: int, records: Sequence[Record]) -> Outputs:
        keys_of = [r.payload.partition(b"|")[0].decode() for r in records]
        return Outputs(
            [OutRecord("signals.momentum", key, f"{key}|{generation}".encode()) for key in keys_of],
            fences={"momentum": generation},
        )

    async def follow(strategy: str, lowest: int) -> None:
        nonlocal generation
        met.append((strategy, lowest))
        generation = lowest

    async def done() -> bool:
        return len(await outputs(redis, "signals.momentum")) == 100

    async with running(started(redis, score, on_fenced=follow)):
        await until(done)
    assert set(met) == {("momentum", 5)}
    assert {text.partition("|")[2] for text in await outputs(redis, "signals.momentum")} == {"5"}


async def test_an_output_of_another_partition_is_a_bug_that_is_told(redis: Redis) -> None:
    leases = started(redis)._leases
    offset = await leases.acquire(0)
    assert offset is not None
    stray = next(key for key in KEYS if CATALOG.partition_of(key) != 0)
    with pytest.raises(ValueError, match=stray):
        await leases.commit(
            0, offset, [Record("features.raw", 0, "1-0", b"")], Outputs([OutRecord("features.pit", stray, b"")])
        )


async def test_a_record_that_its_transform_cannot_take_is_a_dead_letter_after_all_attempts(redis: Redis) -> None:
    await publish(redis, 64)
    tries = 0

    async def choke_on_seven(partition: int, records: Sequence[Record]) -> Outputs:
        nonlocal tries
        if any(r.payload.endswith(b"|7") for r in records):
            tries += len(records) == 1
            raise RuntimeError("seven")
        return await copy(partition, records)

    impatient = CATALOG.stream("features.raw").model_copy(update={"max_attempts": 2})
    catalog = CATALOG.model_copy(update={"streams": {**CATALOG.streams, "features.raw": impatient}})
    async with running(Processor(redis, catalog, "features.raw", choke_on_seven, batch_size=20)):
        await until(lambda: all_there(redis, 63))
    assert tries == 2
    entries = await redis.xrange(keys.dead_letters("features.raw", CATALOG.partition_of("K7")))
    (letter,) = [dead_letter_pb2.DeadLetter.FromString(fields[keys.PAYLOAD]) for _, fields in entries]
    assert (letter.reason, letter.attempts, letter.payload) == ("TRANSFORM_FAILED", 2, b"K7|7")
    assert "seven" in letter.error
    assert_each_once_in_order(await outputs(redis), 63)


async def test_attempts_count_on_while_the_partition_goes_to_and_fro(redis: Redis) -> None:
    """Otherwise members that come and go faster than a record is tried would keep the records behind it for ever."""
    impatient = CATALOG.stream("features.raw").model_copy(update={"max_attempts": 2})
    catalog = CATALOG.model_copy(update={"streams": {**CATALOG.streams, "features.raw": impatient}})
    moved = next(key for key in KEYS if CATALOG.partition_of(key) == 0)
    await Producer(redis, catalog).send_many(
        [OutRecord("features.raw", moved, text.encode()) for text in ("bad", "good")]
    )
    tries = 0

    async def choke(partition: int, records: Sequence[Record]) -> Outputs:
        nonlocal tries
        if any(record.payload == b"bad" for record in records):
            tries += 1
            raise RuntimeError("bad")
        return Outputs([OutRecord("features.pit", moved, record.payload) for record in records])

    async def another(*, leaves: bool = False) -> None:
        """A member that comes or leaves, whose name makes partition 0 its own."""
        await scripts.heartbeat(redis, impatient, impatient.group, "a", 60_000, leave=leaves)

    async def tried_or_done(before: int) -> bool:
        return tries > before or await all_there(redis, 1)

    processor = Processor(redis, catalog, "features.raw", choke, member="b", lease_ms=400)
    async with running(processor):
        for _ in range(4):  # the batch, the record alone, once more, and then it is given up
            await until(lambda before=tries: tried_or_done(before))  # type: ignore[misc]
            await another()
            await until(lambda: 0 not in processor._owners)
            await another(leaves=True)
        await until(lambda: all_there(redis, 1))
    assert tries == 3
    (entry,) = await redis.xrange(keys.dead_letters("features.raw", 0))
    assert dead_letter_pb2.DeadLetter.FromString(entry[1][keys.PAYLOAD]).attempts == 2


async def test_a_full_output_stream_holds_the_processor_and_loses_nothing(redis: Redis) -> None:
    narrow = CATALOG.stream("features.pit").model_copy(update={"high_water": 40, "low_water": 10})
    catalog = CATALOG.model_copy(update={"streams": {**CATALOG.streams, "features.pit": narrow}})
    await publish(redis, 800)
    async with running(Processor(redis, catalog, "features.raw", copy, batch_size=20)):

        async def held() -> bool:
            lengths = [await redis.xlen(keys.entries("features.pit", p)) for p in range(4)]
            return min(lengths) >= 40

        await until(held)
        assert len(await outputs(redis)) <= 4 * 40
        async with running(Processor(redis, catalog, "features.pit", swallow, batch_size=20)):
            await until(lambda: all_there(redis, 800))
    assert_each_once_in_order(await outputs(redis), 800)


async def swallow(partition: int, records: Sequence[Record]) -> Outputs:
    return Outputs()


async def test_a_cancelled_run_leaves_nothing_running(redis: Redis) -> None:
    await publish(redis, 400)
    task = asyncio.create_task(started(redis, member="gone", lease_ms=400).run())
    await until(lambda: all_there(redis, 20))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    async with running(started(redis, member="heir", lease_ms=400)):
        await until(lambda: all_there(redis, 400))
    assert_each_once_in_order(await outputs(redis), 400)


async def test_a_long_step_under_way_keeps_its_lease_while_the_member_stops(redis: Redis) -> None:
    await publish(redis, 100)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(partition: int, records: Sequence[Record]) -> Outputs:
        begun.set()
        await go_on.wait()
        return await copy(partition, records)

    leaving = started(redis, slow, member="leaving", lease_ms=200, batch_size=100)
    task = asyncio.create_task(leaving.run())
    await begun.wait()
    leaving.stop()
    epochs = [keys.group("features.raw", "feature_processor", p) for p in range(4)]
    async with running(started(redis, member="heir", lease_ms=200)):
        await asyncio.wait({task}, timeout=1.0)  # five leases long
        owners = [await redis.hget(group, "owner") for group in epochs]
        assert b"leaving" in owners
        go_on.set()
        await task
        await until(lambda: all_there(redis, 100))
    assert_each_once_in_order(await outputs(redis), 100)


async def test_a_run_that_is_cancelled_again_and_again_ends_its_owners_too(redis: Redis) -> None:
    async def stubborn(partition: int, records: Sequence[Record]) -> Outputs:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)  # longer than the time until the next cancellation
        return await copy(partition, records)

    await publish(redis, 100)
    task = asyncio.create_task(started(redis, stubborn).run())
    await until(lambda: len(asyncio.all_tasks()) >= 6)
    await ended(task)
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
