"""The producer on a real server: order, sequences, epochs, event ids, retention."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from runtime.errors import NotFoundError
from streams import OutRecord, Producer, ProducerFencedError, SendResult, keys, load_catalog, scripts

CATALOG = load_catalog(partitions=4)


def record(key: str, payload: str, event_id: str = "") -> OutRecord:
    return OutRecord("features.raw", key, payload.encode(), event_id=event_id)


async def payloads(redis: Redis, stream: str, key: str) -> list[str]:
    entries = await redis.xrange(keys.entries(stream, CATALOG.partition_of(key)))
    return [fields[keys.PAYLOAD].decode() for _, fields in entries]


async def test_records_of_a_key_keep_their_order_across_batches_and_script_calls(redis: Redis) -> None:
    producer = Producer(redis, CATALOG)
    for start in (0, 1200):
        sent = await producer.send_many([record("AAPL", str(n)) for n in range(start, start + 1200)])
        assert sent == SendResult(accepted=1200)
    assert await payloads(redis, "features.raw", "AAPL") == [str(n) for n in range(2400)]


async def test_concurrent_sends_of_one_producer_lose_and_repeat_nothing(redis: Redis) -> None:
    producer = Producer(redis, CATALOG)
    await asyncio.gather(*(producer.send_many([record("AAPL", f"{n}:{i}") for i in range(50)]) for n in range(20)))
    found = await payloads(redis, "features.raw", "AAPL")
    assert sorted(found) == sorted(f"{n}:{i}" for n in range(20) for i in range(50))
    for n in range(20):
        assert [p for p in found if p.startswith(f"{n}:")] == [f"{n}:{i}" for i in range(50)]


async def test_a_batch_sent_again_because_its_answer_was_lost_is_recognised(redis: Redis) -> None:
    async def send(first: int, texts: list[str]) -> scripts.Produced:
        return await scripts.produce(
            redis,
            CATALOG.stream("features.raw"),
            0,
            producer_id="p",
            epoch=7,
            first_sequence=first,
            bucket=1,
            keep_ids_ms=1000,
            keep_state_ms=60_000,
            limit=0,
            records=[record("x", text) for text in texts],
        )

    first = await send(1, ["a", "b"])
    assert first == scripts.Produced("OK", accepted=2)
    assert await send(1, ["a", "b"]) == first
    assert await send(4, ["d"]) == scripts.Produced("GAP", at=2), "a sequence that is left out is refused"
    assert await redis.xlen(keys.entries("features.raw", 0)) == 2


async def test_an_older_epoch_of_the_same_producer_is_fenced(redis: Redis) -> None:
    old = Producer(redis, CATALOG, producer_id="desk-1")
    await old.send_many([record("AAPL", "old")])
    new = Producer(redis, CATALOG, producer_id="desk-1")
    await new.send_many([record("AAPL", "new")])
    with pytest.raises(ProducerFencedError, match="desk-1"):
        await old.send_many([record("AAPL", "zombie")])
    assert await payloads(redis, "features.raw", "AAPL") == ["old", "new"]


async def test_an_event_id_is_accepted_once_whoever_sends_it(redis: Redis) -> None:
    batch = [record("AAPL", "a", "id-a"), record("AAPL", "b", "id-b"), record("AAPL", "again", "id-a")]
    assert await Producer(redis, CATALOG).send_many(batch) == SendResult(accepted=2, duplicates=1)
    assert await Producer(redis, CATALOG).send_many(batch) == SendResult(duplicates=3)
    assert await payloads(redis, "features.raw", "AAPL") == ["a", "b"]


async def test_an_unknown_stream_is_refused_before_anything_is_written(redis: Redis) -> None:
    with pytest.raises(NotFoundError, match=r"features\.rwa"):
        await Producer(redis, CATALOG).send_many([record("AAPL", "a"), OutRecord("features.rwa", "AAPL", b"")])
    assert not await redis.keys()


async def test_a_drop_oldest_stream_is_bounded(redis: Redis) -> None:
    trades = CATALOG.stream("market_data.trades")
    small = trades.model_copy(update={"retention": trades.retention.model_copy(update={"max_records": 100})})
    catalog = CATALOG.model_copy(update={"streams": {**CATALOG.streams, trades.name: small}})
    producer = Producer(redis, catalog)
    for n in range(20):
        await producer.send_many([OutRecord(trades.name, "AAPL", str(n).encode()) for _ in range(100)])
    # `~` trims whole nodes of the stream, 100 entries each by default.
    assert 100 <= await redis.xlen(keys.entries(trades.name, CATALOG.partition_of("AAPL"))) <= 300
    assert (await payloads(redis, trades.name, "AAPL"))[-1] == "19"
