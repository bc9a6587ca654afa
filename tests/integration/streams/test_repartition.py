"""Growing the number of partitions on a real server: order, state, identities and fences go along."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

import pytest

from runtime.errors import ConfigurationError, FailedPreconditionError, InvalidInputError
from runtime.redis_client import Client
from streams import Outputs, OutRecord, Processor, Producer, ProducerFencedError, Record, SendResult, keys, load_catalog
from streams.fences import raise_fences
from streams.repartition import MOVING, repartition
from tests.waiting import until

RAW, PIT = "features.raw", "features.pit"
KEYS = [f"K{number}" for number in range(40)]


class Counting:
    """Numbers the records of each key by state, as a processor of one life of the mesh."""

    def __init__(self, redis: Client, partitions: int) -> None:
        self.redis = redis
        self.catalog = load_catalog(partitions)
        self._counts: dict[int, dict[bytes, int]] = {}
        self.processor = Processor(redis, self.catalog, RAW, self._number, on_assigned=self._load)

    async def _load(self, partition: int) -> None:
        stored = await self.redis.hgetall(keys.state("count", partition))
        self._counts[partition] = {key: int(value) for key, value in stored.items()}

    async def _number(self, partition: int, records: Sequence[Record]) -> Outputs:
        outputs = Outputs()
        counts = self._counts[partition]
        for record in records:
            key, payload = record.payload.split(b" ")
            counts[key] = counts.get(key, 0) + 1
            outputs.records.append(OutRecord(PIT, key.decode(), b"%s %d %s" % (key, counts[key], payload)))
            outputs.state.setdefault("count", {})[key.decode()] = b"%d" % counts[key]
        return outputs

    async def publish(self, first: int, count: int) -> None:
        records = [
            OutRecord(RAW, key, f"{key} {n}".encode(), event_id=f"{key} {n}")
            for n in range(first, first + count)
            for key in KEYS
        ]
        await Producer(self.redis, self.catalog).send_many(records)

    async def run_until(self, outputs: int) -> None:
        task = asyncio.create_task(self.processor.run())
        await until(lambda: self._wrote(outputs), limit_s=60)
        self.processor.stop()
        await task

    async def _wrote(self, outputs: int) -> bool:
        lengths = [await self.redis.xlen(keys.entries(PIT, p)) for p in range(self.catalog.partitions)]
        return sum(lengths) >= outputs


async def drop_the_readers_of_outputs(redis: Client, partitions: int) -> None:
    for partition in range(partitions):
        await redis.hset(keys.group(PIT, "trading_service", partition), "dropped", "1")


@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 5)])
async def test_keys_keep_their_order_and_state_across_growth(redis: Client, before: int, after: int) -> None:
    old = Counting(redis, before)
    await old.publish(0, 5)
    await old.run_until(5 * len(KEYS))
    await drop_the_readers_of_outputs(redis, before)
    moved = await repartition(redis, old.catalog, after)
    assert moved.state_fields == sum(
        old.catalog.partition_of(key) != load_catalog(after).partition_of(key) for key in KEYS
    )

    new = Counting(redis, after)
    await new.publish(3, 5)  # two of each key were there before
    await new.run_until(8 * len(KEYS))
    by_key: dict[str, list[tuple[tuple[int, ...], str]]] = defaultdict(list)
    for partition in range(after):
        for entry_id, fields in await redis.xrange(keys.entries(PIT, partition)):
            key, text = fields[b"payload"].decode().split(" ", 1)
            by_key[key].append((tuple(map(int, entry_id.split(b"-"))), text))
    assert len(by_key) == len(KEYS)
    for found in by_key.values():
        assert [text for _, text in sorted(found)] == [f"{n + 1} {n}" for n in range(8)]


async def test_event_ids_go_to_where_their_records_may_go_for_as_long_as_they_were_to_stay(redis: Client) -> None:
    old, after = Counting(redis, 2), load_catalog(4)
    await old.publish(0, 30)
    await old.run_until(30 * len(KEYS))
    await drop_the_readers_of_outputs(redis, 2)
    assert (await repartition(redis, old.catalog, 4)).event_ids == 30 * len(KEYS)
    again = [OutRecord(RAW, key, b"", event_id=f"{key} {n}") for key in KEYS for n in range(30)]
    assert await Producer(redis, after).send_many(again) == SendResult(duplicates=len(again))
    window_ms = after.stream(RAW).deduplication_hours * 3_600_000
    found = await redis.keys("seen:*")
    assert {key.split(b":")[1] for key in found} == {b"{%d}" % p for p in range(4)}
    for key in found:
        assert 0 < await redis.pttl(key) <= 2 * window_ms


async def test_nobody_may_go_on_with_the_old_number(redis: Client) -> None:
    old = Counting(redis, 2)
    forgotten = Producer(redis, old.catalog)
    await forgotten.send_many([OutRecord(RAW, "K0", b"K0 0")])
    await old.run_until(1)
    await drop_the_readers_of_outputs(redis, 2)
    assert (await repartition(redis, old.catalog, 4)).producers_fenced >= 1
    for key in KEYS:  # in partitions too where it never wrote
        with pytest.raises(ProducerFencedError):
            await forgotten.send_many([OutRecord(RAW, key, b"late")])
    with pytest.raises(ConfigurationError):
        await Producer(redis, old.catalog).send_many([OutRecord(RAW, "K0", b"K0 1")])


@pytest.mark.parametrize("ahead_s", [-7_200.0, 0.0, 7_200.0])
@pytest.mark.parametrize("forgotten_ahead_s", [-3_600.0, 3_600.0])
async def test_clocks_that_are_off_neither_let_in_who_was_forgotten_nor_keep_out_who_begins(
    redis: Client, monkeypatch: pytest.MonkeyPatch, forgotten_ahead_s: float, ahead_s: float
) -> None:
    now_ns = time.time_ns

    def skew(seconds: float) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(seconds * 1e9))

    old, record = Counting(redis, 2), OutRecord(RAW, "K0", b"K0 0")
    skew(forgotten_ahead_s)
    forgotten = [Producer(redis, old.catalog, name) for name in (None, "desk")]
    for producer in forgotten:
        await producer.send_many([record])
    await old.run_until(len(forgotten))
    await drop_the_readers_of_outputs(redis, 2)
    skew(ahead_s)
    await repartition(redis, old.catalog, 4)
    for producer in forgotten:
        with pytest.raises(ProducerFencedError):
            await producer.send_many([record])
    skew(-10_800.0)
    again = Producer(redis, load_catalog(4), "desk")
    assert await again.send_many([OutRecord(RAW, key, b"") for key in KEYS]) == SendResult(accepted=len(KEYS))


async def test_fences_hold_in_new_partitions(redis: Client) -> None:
    catalog = load_catalog(2)
    await redis.set(keys.PARTITIONS, 2)
    await raise_fences(redis, catalog, "momentum", 7)
    await repartition(redis, catalog, 4)
    assert [await redis.get(keys.fence("momentum", p)) for p in range(4)] == [b"7"] * 4


async def test_refuses_while_records_are_left_or_members_alive(redis: Client) -> None:
    old = Counting(redis, 2)
    await old.publish(0, 1)
    with pytest.raises(FailedPreconditionError, match=r"features.raw: feature_processor has 40 records left") as error:
        await repartition(redis, old.catalog, 4)
    assert error.value.reason == "NOT_DRAINED"
    task = asyncio.create_task(old.processor.run())
    await until(lambda: old._wrote(len(KEYS)), limit_s=60)
    await drop_the_readers_of_outputs(redis, 2)
    with pytest.raises(FailedPreconditionError, match=r"1 members of feature_processor are alive"):
        await repartition(redis, old.catalog, 4)
    old.processor.stop()
    await task
    assert await redis.get(keys.PARTITIONS) == b"2", "and everybody may go on"
    await repartition(redis, old.catalog, 4)
    assert await redis.get(keys.PARTITIONS) == b"4"


async def test_takes_up_what_was_interrupted(redis: Client) -> None:
    catalog = load_catalog(2)
    fields = {key: key.encode() for key in KEYS}
    for key in KEYS:
        await redis.hset(keys.state("pit", catalog.partition_of(key)), key, fields[key])
    await redis.set(keys.PARTITIONS, 0)
    await redis.set(MOVING, "2 4")
    with pytest.raises(FailedPreconditionError):
        await repartition(redis, catalog, 8)
    with pytest.raises(ConfigurationError):
        await Producer(redis, catalog).send_many([OutRecord(RAW, "K0", b"K0 1")])
    await repartition(redis, catalog, 4)
    after = load_catalog(4)
    for key in KEYS:
        assert await redis.hget(keys.state("pit", after.partition_of(key)), key) == fields[key]
    assert sum([await redis.hlen(keys.state("pit", p)) for p in range(4)]) == len(KEYS)


async def test_partitions_are_only_added(redis: Client) -> None:
    with pytest.raises(InvalidInputError, match="more than 4"):
        await repartition(redis, load_catalog(4), 4)
