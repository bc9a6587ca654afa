"""The audit on a real server: it is silent on what is sound, and finds each kind of fault."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from quantmesh.streams.v1.feature_pb2 import RawFeature
from quantmesh.streams.v1.market_data_pb2 import Quote
from quantmesh.streams.v1.order_pb2 import Order
from runtime.redis_client import Client
from runtime.times import from_us
from streams import Outputs, OutRecord, Processor, Producer, Record, keys, load_catalog
from streams.operations import Audit, verify
from tests.waiting import until

CATALOG = load_catalog(partitions=2)
SYMBOLS = [f"S{n}" for n in range(6)]
RAW = "features.raw"


def feature(n: int, *, symbol: str | None = None, at_us: int | None = None) -> RawFeature:
    return RawFeature(
        symbol=symbol or SYMBOLS[n % len(SYMBOLS)],
        name="close",
        value=n,
        event_time=from_us(n if at_us is None else at_us),
        event_id=str(n),
    )


def record(message: RawFeature, event_id: str = "") -> OutRecord:
    return OutRecord(RAW, message.symbol, message.SerializeToString(), event_id=event_id)


async def publish(redis: Client, count: int, first: int = 0) -> None:
    await Producer(redis, CATALOG).send_many([record(feature(n)) for n in range(first, first + count)])


async def kinds(redis: Client, stream: str = RAW) -> dict[str, int]:
    found: dict[str, int] = {}
    for fault in (await audit(redis, stream)).faults:
        found[fault.kind] = found.get(fault.kind, 0) + fault.count
    return found


async def audit(redis: Client, stream: str = RAW) -> Audit:
    return await verify(redis, CATALOG, CATALOG.stream(stream))


async def process_all(redis: Client) -> None:
    async def drop(partition: int, records: Sequence[Record]) -> Outputs:
        return Outputs()

    processor = Processor(redis, CATALOG, RAW, drop)
    running = asyncio.create_task(processor.run())

    async def done() -> bool:
        return all(part.groups[0].lag_records == 0 for part in await _snapshots(redis))

    await until(done)
    processor.stop()
    await running


async def _snapshots(redis: Client) -> list:  # type: ignore[type-arg]
    from streams.operations.snapshot import snapshots

    return await snapshots(redis, RAW, CATALOG.stream(RAW).groups, CATALOG.partitions)


async def test_a_sound_stream_is_sound_before_and_after_it_is_read(redis: Client) -> None:
    assert (await audit(redis)).sound
    await publish(redis, 1200)
    found = await audit(redis)
    assert (found.faults, sum(part.records for part in found.partitions)) == ([], 1200)
    await process_all(redis)
    await publish(redis, 100, first=1200)
    assert await kinds(redis) == {}


async def test_what_retention_has_taken_is_no_gap(redis: Client) -> None:
    await publish(redis, 1000)
    await process_all(redis)
    for partition in range(2):
        assert await redis.xtrim(keys.entries(RAW, partition), maxlen=100, approximate=False) > 0
    await publish(redis, 50, first=1000)
    found = await audit(redis)
    assert found.faults == []
    assert sum(part.trimmed for part in found.partitions) == 800


async def test_records_that_are_gone_before_they_were_read_are_missing(redis: Client) -> None:
    await publish(redis, 100)
    present = await redis.xlen(keys.entries(RAW, 0))
    await redis.xtrim(keys.entries(RAW, 0), maxlen=present - 7, approximate=False)
    assert await kinds(redis) == {"MISSING": 7}


async def test_an_entry_deleted_from_the_middle_is_found(redis: Client) -> None:
    await publish(redis, 100)
    await process_all(redis)
    entries = await redis.xrange(keys.entries(RAW, 0))
    await redis.xdel(keys.entries(RAW, 0), entries[5][0])
    found = await audit(redis)
    # Before Redis 7 it cannot be seen, and the report says so.
    assert [fault.kind for fault in found.faults] == (["DELETED"] if found.server_counts else [])


async def test_a_stream_that_was_lost_while_its_groups_were_not_is_found(redis: Client) -> None:
    """As after a failover to a server that had not heard of the last entries."""
    await publish(redis, 100)
    await process_all(redis)
    lost = await redis.xlen(keys.entries(RAW, 1))
    await redis.delete(keys.entries(RAW, 1))
    found = await kinds(redis)
    assert found["GROUP_AHEAD"] == 1
    await redis.xadd(keys.entries(RAW, 1), {keys.PAYLOAD: b""}, id="1-0")
    if (await audit(redis)).server_counts:
        assert (await kinds(redis))["MISSING"] == lost - 1


async def test_an_entry_that_did_not_come_by_a_producer_is_foreign(redis: Client) -> None:
    await publish(redis, 10)
    symbol = next(symbol for symbol in SYMBOLS if CATALOG.partition_of(symbol) == 0)
    await redis.xadd(keys.entries(RAW, 0), {keys.PAYLOAD: feature(99, symbol=symbol).SerializeToString()})
    assert await kinds(redis) == {"FOREIGN": 1}


async def test_duplicates_disorder_and_bad_payloads_are_found_and_named(redis: Client) -> None:
    producer = Producer(redis, CATALOG)
    first = feature(1, symbol="S0", at_us=1000)
    late = feature(2, symbol="S0", at_us=999)
    stray = next(symbol for symbol in SYMBOLS if CATALOG.partition_of(symbol) != CATALOG.partition_of("S0"))
    await producer.send_many([record(first), record(first), record(late)])
    await producer.send_many([OutRecord(RAW, "S0", b"\xff\xff"), OutRecord(RAW, "S0", b"")])
    await producer.send_many([OutRecord(RAW, "S0", feature(3, symbol=stray).SerializeToString())])
    found = await audit(redis)
    assert {fault.kind: fault.count for fault in found.faults} == {
        "DUPLICATE": 1,
        "OUT_OF_ORDER": 1,
        "UNREADABLE": 2,
        "WRONG_PARTITION": 1,
    }
    entries = await redis.xrange(keys.entries(RAW, CATALOG.partition_of("S0")))
    (disorder,) = [fault for fault in found.faults if fault.kind == "OUT_OF_ORDER"]
    assert disorder.examples[0].startswith(entries[2][0].decode())


async def test_a_business_identity_is_one_across_partitions(redis: Client) -> None:
    """The producer's own check is for each partition: the same order under two symbols passes it."""
    stray = next(symbol for symbol in SYMBOLS if CATALOG.partition_of(symbol) != CATALOG.partition_of("S0"))
    orders = [Order(order_id="o1", symbol=symbol, quantity="1") for symbol in ("S0", stray)]
    for n, order in enumerate(orders):
        fields = {keys.PAYLOAD: order.SerializeToString()}
        await redis.xadd(keys.entries("orders", CATALOG.partition_of(order.symbol)), fields, id=f"{n + 1}-0")
        await redis.incr(keys.appended("orders", CATALOG.partition_of(order.symbol)))
    assert await kinds(redis, "orders") == {"DUPLICATE": 1}


async def test_equal_quotes_are_counted_and_are_no_fault(redis: Client) -> None:
    quote = Quote(symbol="S0", bid_price=1, ask_price=2).SerializeToString()
    await Producer(redis, CATALOG).send_many([OutRecord("market_data.l1", "S0", quote)] * 3)
    found = await audit(redis, "market_data.l1")
    assert (found.sound, found.repeats) == (True, 2)


@pytest.mark.parametrize("rounds", [5])
async def test_it_raises_no_false_alarm_beside_producers_and_a_processor(redis: Client, rounds: int) -> None:
    async def drop(partition: int, records: Sequence[Record]) -> Outputs:
        return Outputs()

    processor = Processor(redis, CATALOG, RAW, drop, batch_size=10)
    running = asyncio.create_task(processor.run())
    for n in range(rounds):
        publishing = asyncio.create_task(publish(redis, 600, first=600 * n))
        assert await kinds(redis) == {}
        await publishing
    processor.stop()
    await running
