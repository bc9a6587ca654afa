"""Throughput: how near the fabric comes to a bare Lua script, and what FastStream does beside it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias, cast

from bench import streams_peer
from bench.streams_report import Section
from bench.streams_workload import CATALOG, KEY, PAYLOAD_BYTES, SINK, SOURCE, raw_feature
from quantmesh.streams.v1 import feature_pb2
from runtime.redis_client import Client, connect
from streams import Outputs, OutRecord, Processor, Producer, Record, keys

BATCH = 500
_LIMIT_S = 120.0
SENDERS = 4_000
"""Tasks that each wait for their own record: enough to fill batches of the catalog's 1,000 in four partitions."""

PRODUCE_SHARE, PROCESS_SHARE, PROCESS_RATE = 0.45, 0.15, 50_000
PAYLOAD = os.urandom(PAYLOAD_BYTES)
_ADD = "for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'payload', ARGV[i]) end"

FLOOR = "bare Lua script, batches of 500 (the floor)"
PRODUCE = "exactly-once produce: send_many, batches of 500"
POST = "exactly-once produce: post, one task"
SEND = f"exactly-once produce: send, {SENDERS:,} tasks"
PROCESS = "exactly-once consume → transform → produce"
PARSE = "the same, transform parses and serialises protobuf"
PEER = {
    ("one", "publish"): "FastStream publish, one by one",
    ("one", "process"): "FastStream consume → publish, one by one (at least once)",
    ("batch", "publish"): "FastStream publish, pipelines of 500",
    ("batch", "process"): "FastStream consume → publish, batches of 500 (at least once)",
}


Ending: TypeAlias = Callable[[], Awaitable[None]]


async def floor(redis: Client, records: int) -> None:
    """A bare script, one batch at a time."""
    add = cast(Any, redis).register_script(_ADD)
    batch = [PAYLOAD] * BATCH
    for n in range(records // BATCH):
        await add(keys=[keys.entries(SOURCE, n % CATALOG.partitions)], args=batch)


async def send_many(redis: Client, records: int, payload: bytes = PAYLOAD) -> None:
    """Epoch, sequence, backlog; one batch at a time, as the floor."""
    producer = Producer(redis, CATALOG)
    batches = {p: [OutRecord(SOURCE, key, payload)] * BATCH for p, key in KEY.items()}
    for n in range(records // BATCH):
        await producer.send_many(batches[n % CATALOG.partitions])


async def post(redis: Client, records: int) -> None:
    """One record at a time, gathered into batches."""
    given = [OutRecord(SOURCE, key, PAYLOAD) for key in KEY.values()]
    async with Producer(redis, CATALOG) as producer:
        for n in range(records):
            await producer.post(given[n % len(given)])


async def send(redis: Client, records: int) -> None:
    """Many tasks, each of which waits until its record is there before it sends the next."""

    async def sender(record: OutRecord) -> None:
        for _ in range(records // SENDERS):
            await producer.send(record)

    given = [OutRecord(SOURCE, key, PAYLOAD) for key in KEY.values()]
    async with Producer(redis, CATALOG) as producer:
        await asyncio.gather(*(sender(given[n % len(given)]) for n in range(SENDERS)))


async def copy(partition: int, records: Sequence[Record]) -> list[OutRecord]:
    """A transform that does nothing: what it costs is the fabric's."""
    key = KEY[partition]
    return [OutRecord(SINK, key, record.payload) for record in records]


async def parse(partition: int, records: Sequence[Record]) -> list[OutRecord]:
    """A transform that does little, with protobuf messages."""
    key, made = KEY[partition], []
    for record in records:
        message = feature_pb2.RawFeature.FromString(record.payload)
        message.value *= 2
        made.append(OutRecord(SINK, key, message.SerializeToString()))
    return made


async def process(
    redis: Client, records: int, transform: Callable[[int, Sequence[Record]], Awaitable[list[OutRecord]]]
) -> Ending:
    """One processor: read, transform, commit outputs and offset. Done when the last output is there; returns its stop,
    which would wait for the reads under way."""
    done, last_read = 0, asyncio.Event()

    async def counted(partition: int, batch: Sequence[Record]) -> Outputs:
        nonlocal done
        done += len(batch)
        if done >= records:
            last_read.set()
        return Outputs(await transform(partition, batch))

    processor = Processor(redis, CATALOG, SOURCE, counted, batch_size=BATCH)
    running = asyncio.create_task(processor.run())
    async with asyncio.timeout(_LIMIT_S):
        await last_read.wait()
        while (came_out := await length(redis, SINK)) < records:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert came_out == records, f"{came_out} records of {records} came out"

    async def stop() -> None:
        processor.stop()
        await running

    return stop


async def length(redis: Client, stream: str) -> int:
    """Entries in all partitions."""
    return sum([await redis.xlen(keys.entries(stream, p)) for p in range(CATALOG.partitions)])


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took, in seconds."""

    wall: float
    client_cpu: float
    server_cpu: float
    scripts: float
    """Within scripts, by the server's own count; part of server_cpu."""


async def _server(redis: Client) -> tuple[float, float]:
    stats: dict[str, Any] = await redis.info("everything")
    scripts = sum(stats.get(f"cmdstat_{name}", {}).get("usec", 0) for name in ("eval", "evalsha")) / 1e6
    return stats["used_cpu_user"] + stats["used_cpu_sys"], scripts


async def cost(redis: Client, work: Awaitable[Ending | None]) -> Cost:
    """Run, and measure client and server; what it leaves to do afterwards is not counted."""
    server = await _server(redis)
    cpu, wall = time.process_time(), time.perf_counter()
    end = await work
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = await _server(redis)
    if end:
        await end()
    return Cost(wall, cpu, after[0] - server[0], after[1] - server[1])


async def measure(url: str, records: int, rounds: int, peer: Path | None) -> list[Section]:
    """The rounds interleaved, so that what else the machine does meets all alike."""
    costs: dict[str, list[Cost]] = defaultdict(list)
    peers: dict[tuple[str, str], list[float]] = defaultdict(list)
    async with connect(url) as redis:
        for _ in range(rounds):
            for what, work in ((FLOOR, floor), (POST, post), (SEND, send), (PRODUCE, send_many)):
                await redis.flushall()
                costs[what].append(await cost(redis, work(redis, records)))
                there = await length(redis, SOURCE)
                assert there == records, f"{what}: {there} of {records}"
            costs[PROCESS].append(await cost(redis, process(redis, records, copy)))  # what send_many left
            await redis.flushall()
            await send_many(redis, records, raw_feature())
            costs[PARSE].append(await cost(redis, process(redis, records, parse)))
            if peer:
                for way, share in (("one", 50), ("batch", 5)):  # fewer of what is slower
                    await redis.flushall()
                    for what, rate in streams_peer.rates(peer, url, way, records // share, PAYLOAD_BYTES).items():
                        peers[way, what].append(rate)
        await redis.flushall()
    return [_rates(costs, peers, records, rounds), _shares(costs, records)]


def _rates(
    costs: dict[str, list[Cost]], peers: dict[tuple[str, str], list[float]], records: int, rounds: int
) -> Section:
    table = Section(f"Throughput: {records:,} records of {PAYLOAD_BYTES} bytes, median of {rounds} interleaved rounds")
    rates = {what: records / median(cost.wall for cost in each) for what, each in costs.items()}
    base = rates[FLOOR]

    def add(what: str, rate: float, share: float | None = None, least: float = 0) -> None:
        passed = None if share is None else rate / base >= share and rate >= least
        target = "" if share is None else f"≥ {share:.0%} of the floor" + (f" and ≥ {least:,.0f}/s" if least else "")
        table.add(what, f"{rate:,.0f}/s  {rate / base:6.1%}", target, passed)

    add(FLOOR, base)
    add(PRODUCE, rates[PRODUCE], PRODUCE_SHARE)
    add(POST, rates[POST])
    add(SEND, rates[SEND])
    add(PROCESS, rates[PROCESS], PROCESS_SHARE, PROCESS_RATE)
    add(PARSE, rates[PARSE])
    for key, what in PEER.items():
        if peers:
            add(what, median(peers[key]))
        else:
            table.add(what, "not installed")
    return table


def _shares(costs: dict[str, list[Cost]], records: int) -> Section:
    table = Section("Where the time goes: µs for each record, medians")
    for what, each in costs.items():
        wall, client, server, scripts = (
            median(getattr(cost, name) for cost in each) / records * 1e6
            for name in ("wall", "client_cpu", "server_cpu", "scripts")
        )
        table.add(what, f"{wall:5.2f}: client {client:5.2f}, server {server:5.2f} (in the script {scripts:5.2f})")
    return table
