"""Loads that hurt: a consumer that is slow, records of 1 MiB, poison among good records."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from runtime.errors import ResourceExhaustedError
from streams import Outputs, OutRecord, Processor, Producer, Record, keys
from tests.chaos.streams.effects import Effect, Verdict, judge
from tests.chaos.streams.schedules import PARTITIONS, RAW, VECTORS, Schedule, peaceful
from tests.waiting import until

MIB = 1024 * 1024


async def copy(partition: int, records: Sequence[Record]) -> Outputs:
    return Outputs([OutRecord(VECTORS, r.payload.partition(b"|")[0].decode(), r.payload) for r in records])


async def length(redis: Redis, stream: str) -> int:
    return sum([await redis.xlen(keys.entries(stream, partition)) for partition in range(PARTITIONS)])


async def verdict(redis: Redis, schedule: Schedule) -> Verdict:
    found: list[Effect] = []
    for partition in range(PARTITIONS):
        entries = await redis.xrange(keys.entries(VECTORS, partition))
        found += [Effect.of(fields[keys.PAYLOAD]) for _, fields in entries]
    return judge(schedule.published, found)


async def test_a_slow_consumer_holds_its_producers_and_loses_nothing(redis: Redis) -> None:
    """Nothing grows without bound: not the backlog, and with no hours to keep, not the stream either."""
    schedule = replace(peaceful(1, records=3000), high_water=100, keep_hours=0.0)
    backlog = 0

    async def slow(partition: int, records: Sequence[Record]) -> Outputs:
        await asyncio.sleep(0.02)
        return await copy(partition, records)

    async def publish(number: int) -> None:
        async with Producer(redis, catalog, max_wait_s=30) as producer:
            for record in schedule.source(number):
                await producer.post(record)

    streams = schedule.catalog.streams
    narrow = streams[RAW].model_copy(update={"batch_size": 25})  # one batch passes when there is no backlog
    roomy = streams[VECTORS].model_copy(update={"high_water": 100_000})
    catalog = schedule.catalog.model_copy(update={"streams": {**streams, RAW: narrow, VECTORS: roomy}})
    processor = Processor(redis, catalog, RAW, slow, batch_size=25)
    running = asyncio.create_task(processor.run())
    publishing = [asyncio.create_task(publish(number)) for number in range(2)]

    async def done() -> bool:
        nonlocal backlog
        for partition in range(PARTITIONS):
            appended = int(await redis.get(keys.appended(RAW, partition)) or 0)
            read = int(await redis.hget(keys.group(RAW, "feature_processor", partition), "read") or 0)
            backlog = max(backlog, appended - read)
        return await length(redis, VECTORS) >= 3000

    await until(done, limit_s=30)
    await asyncio.gather(*publishing)
    processor.stop()
    await running
    assert 50 < backlog <= 100 + 25  # the two counters are read one after the other
    assert await verdict(redis, schedule) == Verdict(records=3000)
    # MINID trims whole nodes of 100 entries.
    assert await length(redis, RAW) < PARTITIONS * (100 + 200)


async def test_without_a_consumer_the_producer_is_told_to_come_back(redis: Redis) -> None:
    schedule = replace(peaceful(2, records=2000), high_water=50)
    producer = Producer(redis, schedule.catalog, max_wait_s=0.2)

    async def publish() -> None:
        for record in schedule.source(0):
            await producer.send_many([record])

    with pytest.raises(ResourceExhaustedError) as refused:
        await publish()
    assert refused.value.reason == "STREAM_FULL"
    assert await length(redis, RAW) <= PARTITIONS * 50


async def test_records_of_a_mebibyte_go_through_once_and_in_order(redis: Redis) -> None:
    schedule = peaceful(3, records=48)
    records = [
        replace(record, payload=record.payload + b"||" + bytes(MIB))
        for number in range(2)
        for record in schedule.source(number)
    ]
    processor = Processor(redis, schedule.catalog, RAW, copy)  # the catalog's batch: 1000 records, 1 GiB if all were so
    running = asyncio.create_task(processor.run())
    async with Producer(redis, schedule.catalog, max_in_flight_bytes=4 * MIB) as producer:
        for record in records:
            await producer.post(record)

    async def done() -> bool:
        return await length(redis, VECTORS) >= len(records)

    await until(done, limit_s=30)
    processor.stop()
    await running
    assert await verdict(redis, schedule) == Verdict(records=48)


async def test_poison_among_good_records_holds_nobody_up_for_long(redis: Redis) -> None:
    schedule = peaceful(4, records=400)
    poison = {(key, number) for key in schedule.keys[:3] for number in (3, 4, 9)}

    async def choke(partition: int, records: Sequence[Record]) -> Outputs:
        for record in records:
            effect = Effect.of(record.payload)
            if (effect.key, effect.number) in poison:
                raise ValueError("poison")
        return await copy(partition, records)

    async with Producer(redis, schedule.catalog) as producer:
        for number in range(2):
            await producer.send_many(schedule.source(number))
    processor = Processor(redis, schedule.catalog, RAW, choke, batch_size=50)
    running = asyncio.create_task(processor.run())

    async def done() -> bool:
        return await length(redis, VECTORS) >= 400 - len(poison)

    await until(done, limit_s=30)
    processor.stop()
    await running
    assert await length(redis, f"deadletter.{RAW}") == len(poison)
    found = await verdict(redis, schedule)
    assert (found.lost, found.duplicated, found.reordered) == (len(poison), 0, 0)
