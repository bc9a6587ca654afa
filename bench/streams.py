"""How near the fabric comes to a bare Lua script: `python -m bench.streams`.

The floor adds the same batches of 200-byte records by a script that does nothing else. Each row is the median of the
rounds; client and server share the machine, so read the ratios.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median

import uvloop
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from runtime.embedded_redis import EmbeddedRedis
from streams import Outputs, OutRecord, Processor, Producer, Record, keys, load_catalog

RECORDS = 100_000
BATCH = 500
ROUNDS = 5
PAYLOAD = os.urandom(200)
CATALOG = load_catalog(partitions=4)
KEY = {CATALOG.partition_of(f"K{n}"): f"K{n}" for n in range(100)}
_ADD = "for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'payload', ARGV[i]) end"


async def floor(redis: Redis) -> None:
    """A bare script, one batch at a time."""
    add = redis.register_script(_ADD)
    batch = [PAYLOAD] * BATCH
    for n in range(RECORDS // BATCH):
        await add(keys=[keys.entries("features.raw", n % CATALOG.partitions)], args=batch)


async def produce(redis: Redis) -> None:
    """The producer: epoch, sequence, one batch at a time."""
    producer = Producer(redis, CATALOG)
    batches = {p: [OutRecord("features.raw", key, PAYLOAD)] * BATCH for p, key in KEY.items()}
    for n in range(RECORDS // BATCH):
        await producer.send_many(batches[n % CATALOG.partitions])


async def process(redis: Redis) -> None:
    """One processor: read, transform (a copy), commit outputs and offset."""
    done = 0

    async def copy(partition: int, records: Sequence[Record]) -> Outputs:
        nonlocal done
        done += len(records)
        if done >= RECORDS:
            processor.stop()
        return Outputs([OutRecord("features.pit", KEY[partition], record.payload) for record in records])

    processor = Processor(redis, CATALOG, "features.raw", copy, batch_size=BATCH)
    await processor.run()


async def timed(work: Callable[[Redis], Awaitable[None]], redis: Redis) -> float:
    """Records per second."""
    started = time.perf_counter()
    await work(redis)
    return RECORDS / (time.perf_counter() - started)


async def measure(url: str) -> dict[str, float]:
    """Median records per second of each kind of work, the rounds interleaved."""
    rates: dict[str, list[float]] = {"floor": [], "produce": [], "process": []}
    async with Redis.from_url(url) as redis:
        for _ in range(ROUNDS):
            await redis.flushall()
            rates["floor"].append(await timed(floor, redis))
            await redis.flushall()
            rates["produce"].append(await timed(produce, redis))
            rates["process"].append(await timed(process, redis))
            lengths = [await redis.xlen(keys.entries("features.pit", p)) for p in range(CATALOG.partitions)]
            assert sum(lengths) == RECORDS, f"{sum(lengths)} records of {RECORDS} came out"
    return {name: median(values) for name, values in rates.items()}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis(Path(directory)) as server:
        rates = uvloop.run(measure(server.url))
    load = os.getloadavg()[0]
    table = Table(
        title=f"{RECORDS:,} records of {len(PAYLOAD)} bytes, batches of {BATCH}, median of {ROUNDS}, load {load:.1f}"
    )
    for column in ("what", "records/s", "of the floor"):
        table.add_column(column, justify="left" if column == "what" else "right")
    names = {
        "floor": "bare Lua script (the floor)",
        "produce": "exactly-once produce",
        "process": "exactly-once consume → transform → produce",
    }
    for name, label in names.items():
        table.add_row(label, f"{rates[name]:,.0f}", f"{rates[name] / rates['floor']:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
