"""The consumer on a real server: one reader at a time, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.asyncio import Redis

from streams import Batch, Consumer, OutRecord, Poison, Producer, keys, load_catalog
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
STREAM = "market_data.trades"


async def publish(redis: Redis, start: int, count: int) -> None:
    records = [OutRecord(STREAM, f"K{n % 16}", str(n).encode()) for n in range(start, start + count)]
    await Producer(redis, CATALOG).send_many(records)


class Reader:
    """Remembers what it saw."""

    def __init__(self, redis: Redis, member: str, fail_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.assigned = 0
        self._fail_at = fail_at
        self.consumer = Consumer(
            redis,
            CATALOG,
            STREAM,
            self._handle,
            on_assigned=self._assigned,
            member=member,
            lease_ms=400,
        )

    async def _assigned(self) -> None:
        self.assigned += 1

    async def _handle(self, batches: Sequence[Batch]) -> Sequence[Poison]:
        numbers = [int(record.payload) for batch in batches for record in batch.records]
        self.seen += numbers
        if self._fail_at in numbers:
            self._fail_at = None
            raise RuntimeError("after the effect, before the commit")
        return [Poison(r, "ODD", "odd") for b in batches for r in b.records if int(r.payload) == 13]


async def test_reads_everything_and_goes_on_where_the_one_before_stopped(redis: Redis) -> None:
    first = Reader(redis, "first")
    task = asyncio.create_task(first.consumer.run())
    await publish(redis, 0, 500)
    await until(lambda: len(first.seen) == 500)
    first.consumer.stop()
    await task
    assert sorted(first.seen) == list(range(500))
    assert await redis.xlen(keys.dead_letters(STREAM, CATALOG.partition_of("K13"))) == 1

    await publish(redis, 500, 100)
    second = Reader(redis, "second")
    task = asyncio.create_task(second.consumer.run())
    await until(lambda: len(second.seen) == 100)
    second.consumer.stop()
    await task
    assert second.assigned == 1
    assert sorted(second.seen) == list(range(500, 600))


async def test_a_handler_that_fails_sees_its_records_again(redis: Redis) -> None:
    reader = Reader(redis, "one", fail_at=42)
    task = asyncio.create_task(reader.consumer.run())
    await publish(redis, 0, 100)
    await until(lambda: set(reader.seen) == set(range(100)) and reader.seen.count(42) == 2)
    reader.consumer.stop()
    await task


async def test_a_second_consumer_stands_by_until_the_first_leaves(redis: Redis) -> None:
    first, second = Reader(redis, "first"), Reader(redis, "second")
    first_task = asyncio.create_task(first.consumer.run())
    await publish(redis, 0, 50)
    await until(lambda: len(first.seen) == 50)
    second_task = asyncio.create_task(second.consumer.run())
    await publish(redis, 50, 50)
    await until(lambda: len(first.seen) == 100)
    assert not second.seen
    first.consumer.stop()
    await first_task
    await publish(redis, 100, 50)
    await until(lambda: len(second.seen) == 50)
    second.consumer.stop()
    await second_task
    assert not set(first.seen) & set(second.seen)
