"""The producer on a real server: order, sequences, epochs, event ids, retention."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ResponseError

from runtime.errors import (
    ConfigurationError,
    FailedPreconditionError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
)
from runtime.redis_client import Client, capabilities
from streams import Catalog, OutRecord, Producer, ProducerFencedError, SendResult, keys, load_catalog, scripts
from streams.durability import NotDurableError

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
            keep_state_ms=60_000,
            limit=0,
            records=[record("x", text) for text in texts],
        )

    first = await send(1, ["a", "b"])
    assert first == scripts.Produced("OK", accepted=2)
    assert await send(1, ["a", "b"]) == first
    assert await send(4, ["d"]) == scripts.Produced("GAP", at=2, known_epoch=7), (
        "a sequence that is left out is refused"
    )
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
    assert await redis.keys() in ([], [keys.PARTITIONS.encode()])


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


async def node_of(redis: Client, stream: str) -> dict[str, Any]:
    """Options that send a command to the server that has the test's partition, on a cluster."""
    if not isinstance(redis, RedisCluster):
        return {}
    await redis.initialize()
    return {"target_nodes": redis.get_node_from_key(keys.entries(stream, CATALOG.partition_of("AAPL")))}


async def needs_waitaof(redis: Client) -> None:
    if not (await capabilities(redis)).waitaof:
        pytest.skip("this server has no WAITAOF")


async def test_sends_of_many_tasks_go_together_in_batches(redis: Redis) -> None:
    await redis.config_resetstat(**await node_of(redis, "features.raw"))
    async with Producer(redis, CATALOG) as producer:
        await asyncio.gather(*(producer.send(record("AAPL", str(n))) for n in range(1000)))
    assert await payloads(redis, "features.raw", "AAPL") == [str(n) for n in range(1000)]
    calls = (await redis.info("commandstats", **await node_of(redis, "features.raw")))["cmdstat_evalsha"]["calls"]
    assert calls < 100, "one script call for many records"


async def test_a_lone_record_goes_after_the_delay(redis: Redis) -> None:
    async with Producer(redis, CATALOG) as producer:
        async with asyncio.timeout(2):
            await producer.send(record("AAPL", "alone"))
    assert await payloads(redis, "features.raw", "AAPL") == ["alone"]


async def test_posted_records_are_there_after_a_flush_and_at_the_end(redis: Redis) -> None:
    async with Producer(redis, CATALOG, max_in_flight_bytes=20_000) as producer:
        for n in range(500):
            await producer.post(record("AAPL", str(n)))
        await producer.flush()
        assert len(await payloads(redis, "features.raw", "AAPL")) == 500
        await producer.post(record("AAPL", "last"))
    assert (await payloads(redis, "features.raw", "AAPL"))[-1] == "last"


async def test_what_went_wrong_in_the_background_is_raised_by_the_flush(redis: Redis) -> None:
    await redis.set(keys.producer("desk", CATALOG.partition_of("AAPL")), "not a hash")
    async with Producer(redis, CATALOG, "desk") as producer:
        await producer.post(record("AAPL", "x"))
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await producer.flush()


def narrow(high_water: int, low_water: int) -> Catalog:
    raw = CATALOG.stream("features.raw").model_copy(update={"high_water": high_water, "low_water": low_water})
    return CATALOG.model_copy(update={"streams": {**CATALOG.streams, raw.name: raw}})


async def test_a_full_stream_refuses_until_its_group_catches_up(redis: Redis) -> None:
    catalog = narrow(high_water=100, low_water=20)
    producer = Producer(redis, catalog, max_wait_s=0.1)
    await producer.send_many([record("AAPL", str(n)) for n in range(100)])
    with pytest.raises(ResourceExhaustedError, match="feature_processor") as caught:
        await producer.send_many([record("AAPL", "too many")])
    assert (caught.value.reason, caught.value.retry_after_s) == ("STREAM_FULL", 1.0)

    patient = Producer(redis, catalog, max_wait_s=10)
    waiting = asyncio.create_task(patient.send_many([record("AAPL", "waits")]))
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    group = keys.group("features.raw", "feature_processor", CATALOG.partition_of("AAPL"))
    await redis.hset(group, "read", 50)
    await asyncio.wait({waiting}, timeout=0.7)
    assert not waiting.done(), "50 behind is above the low water"
    await redis.hset(group, "read", 90)
    assert await waiting == SendResult(accepted=1)


async def test_nobody_waits_for_a_group_that_was_dropped(redis: Redis) -> None:
    producer = Producer(redis, narrow(high_water=10, low_water=5), max_wait_s=0.1)
    await redis.hset(keys.group("features.raw", "feature_processor", CATALOG.partition_of("AAPL")), "dropped", "1")
    for n in range(5):
        await producer.send_many([record("AAPL", f"{n}:{i}") for i in range(10)])


def order(order_id: str) -> OutRecord:
    return OutRecord("orders", "AAPL", order_id.encode(), event_id=order_id)


async def test_an_order_needs_its_identity_and_is_accepted_once(redis: Redis) -> None:
    await needs_waitaof(redis)
    with pytest.raises(InvalidInputError, match="order_id"):
        await Producer(redis, CATALOG).send_many([order("")])
    assert await Producer(redis, CATALOG).send_many([order("o-1")]) == SendResult(accepted=1)
    assert await Producer(redis, CATALOG).send_many([order("o-1"), order("o-2")]) == SendResult(1, 1)


async def test_an_order_that_was_sent_is_on_the_disk(redis: Redis) -> None:
    await needs_waitaof(redis)
    await Producer(redis, CATALOG).send_many([order("o-1")])
    (local, _) = await redis.execute_command("WAITAOF", 1, 0, 1)
    assert local == 1, "nothing was left to wait for"


async def test_a_server_that_cannot_give_the_durability_says_so_before_anything_is_written(redis: Redis) -> None:
    await redis.config_set("appendonly", "no")
    try:
        with pytest.raises(FailedPreconditionError) as caught:
            await Producer(redis, CATALOG).send_many([order("o-1")])
        assert caught.value.reason == "DURABILITY_UNSUPPORTED"
        assert not await redis.exists(keys.entries("orders", CATALOG.partition_of("AAPL")))
    finally:
        await redis.config_set("appendonly", "yes")


async def test_replicas_that_are_not_there_are_missed(redis: Redis) -> None:
    fills = CATALOG.stream("fills").model_copy(update={"durability": "replicated(9)"})
    catalog = CATALOG.model_copy(update={"streams": {**CATALOG.streams, "fills": fills}})
    with pytest.raises(NotDurableError, match="replicas "):
        await Producer(redis, catalog, max_wait_s=0.01).send_many([OutRecord("fills", "AAPL", b"f", event_id="f-1")])


async def test_another_number_of_partitions_is_refused(redis: Redis) -> None:
    await Producer(redis, CATALOG).send_many([record("AAPL", "a")])
    with pytest.raises(ConfigurationError, match="QUANTMESH_PARTITIONS"):
        await Producer(redis, load_catalog(partitions=8)).send_many([record("AAPL", "b")])


def remembering(window_s: float) -> Catalog:
    """The catalog with another deduplication window."""
    raw = CATALOG.stream("features.raw").model_copy(update={"deduplication_hours": window_s / 3600})
    return CATALOG.model_copy(update={"streams": {**CATALOG.streams, raw.name: raw}})


async def server_clock(redis: Client) -> float:
    """Of the server that has the test's partition."""
    seconds, microseconds = await redis.time(**await node_of(redis, "features.raw"))
    return float(seconds) + float(microseconds) / 1e6


async def test_an_event_id_is_known_for_one_window_and_not_for_two_turn_after_turn(redis: Redis) -> None:
    """Each send lies between two looks at the server's clock, so that a slow machine makes this weaker, not wrong."""
    window_s, dice = 0.3, random.Random(0)
    producer = Producer(redis, remembering(window_s))
    before = began = await server_clock(redis)
    accepted: dict[str, tuple[float, float]] = {}
    again = 0
    while before < began + 12 * window_s:  # each of the four sets has three turns
        new, old = f"e{len(accepted)}", dice.choice(list(accepted) or ["first"])
        sent = await producer.send_many([record("AAPL", "x", new), record("AAPL", "x", old)])
        after = await server_clock(redis)
        if sent.accepted == 2:
            assert old not in accepted or after - accepted[old][0] > window_s, "forgotten too soon"
            again += old in accepted
            accepted[old] = before, after
        else:
            assert before - accepted[old][1] < 2 * window_s, "remembered for too long"
        accepted[new] = before, after
        before = after
    assert again
    ages = [before - later for _, later in accepted.values()]
    assert min(ages) < window_s < 4 * window_s < max(ages)


@pytest.mark.parametrize(("windows", "known"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
async def test_an_event_id_is_known_when_a_failover_moves_the_servers_clock(
    redis: Redis, windows: int, known: bool
) -> None:
    """An id that a server whose clock was so many windows ahead accepted would lie in that turn's set."""
    window_s = 1000 * 24 * 3600.0
    producer, partition = Producer(redis, remembering(window_s)), CATALOG.partition_of("AAPL")
    await producer.send_many([record("AAPL", "x", "e")])
    turn = int(await server_clock(redis) / window_s)
    held, other = (keys.seen("features.raw", partition, each % keys.SEEN_BUCKETS) for each in (turn, turn + windows))
    assert await redis.smembers(held) == {b"e"}
    assert await redis.pttl(held) > window_s * 1000, "it lasts through the turn after its own"
    if windows:
        await redis.rename(held, other)
    assert (await producer.send_many([record("AAPL", "x", "e")])).duplicates == known


async def test_event_ids_of_a_partition_leave_nothing_behind_when_their_time_is_over(redis: Redis) -> None:
    producer = Producer(redis, remembering(0.2))
    for number in range(30):
        await producer.send_many([record("AAPL", "x", str(number))])
        await asyncio.sleep(0.02)
    await asyncio.sleep(3 * 0.2)
    assert not await redis.keys("seen:*")


async def test_lost_unread_records_of_a_drop_oldest_stream_are_counted_and_read_ones_are_not(redis: Redis) -> None:
    trades = CATALOG.stream("market_data.trades")
    small = trades.model_copy(update={"retention": trades.retention.model_copy(update={"max_records": 100})})
    catalog = CATALOG.model_copy(update={"streams": {**CATALOG.streams, trades.name: small}})
    producer, partition = Producer(redis, catalog), CATALOG.partition_of("AAPL")
    group = keys.group(trades.name, trades.group, partition)

    async def send(count: int) -> None:
        await producer.send_many([OutRecord(trades.name, "AAPL", b"x") for _ in range(count)])

    await send(100)
    await redis.hset(group, "read", 100)
    await send(100)
    assert not await redis.hget(group, "lost"), "what went was read"
    await send(400)
    present = await redis.xlen(keys.entries(trades.name, partition))
    assert int(await redis.hget(group, "lost")) == 500 - present > 0
