"""The processes of the bench: `python -m bench.streams_workers ROLE URL ARGUMENTS`, run by bench.streams_workload."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvloop

from bench.streams_workload import CATALOG, KEY, PAYLOAD_BYTES, SINK, SOURCE, endless_catalog
from runtime.redis_client import Client, connect
from streams import Outputs, OutRecord, Processor, Producer, Record

STAMP = struct.Struct("<qq")
"""When a record was to be sent, ns of the monotonic clock (one for all processes of a machine); when the server
appended it, ms of its clock."""

_TICK_S = 0.001
"""The producer sleeps no shorter than this; what falls due meanwhile is late by that, and counts as late."""

_PADDING = bytes(PAYLOAD_BYTES - STAMP.size)


def say(**what: Any) -> None:
    """Tell who started this process."""
    print(json.dumps(what), flush=True)


async def open_loop(redis: Client, *, rate: int, records: int) -> None:
    """Post records at the times of a Poisson process, whatever became of those before."""
    rng, names = random.Random(1), list(KEY.values())
    gaps_ns = [round(rng.expovariate(rate) * 1e9) for _ in range(records)]
    async with Producer(redis, CATALOG) as producer:
        for key in names:
            await producer.send(OutRecord(SOURCE, key, STAMP.pack(0, 0) + _PADDING))
        due = time.monotonic_ns() + 200_000_000
        say(begins=due)
        for n, gap in enumerate(gaps_ns):
            due += gap
            early_ns = due - time.monotonic_ns()
            if early_ns > 0:
                await asyncio.sleep(max(early_ns / 1e9, _TICK_S))
            await producer.post(OutRecord(SOURCE, names[n % len(names)], STAMP.pack(due, 0) + _PADDING))
    say(cpu_s=time.process_time())


async def copier(redis: Client) -> None:
    """A processor that copies, and stamps what the server knew, until SIGTERM."""

    async def stamp(partition: int, records: Sequence[Record]) -> Outputs:
        key, made = KEY[partition], []
        for record in records:
            due, _ = STAMP.unpack_from(record.payload)
            appended_ms = int(record.entry_id.partition("-")[0])
            made.append(OutRecord(SINK, key, STAMP.pack(due, appended_ms) + record.payload[STAMP.size :]))
        return Outputs(made)

    processor = Processor(redis, CATALOG, SOURCE, stamp)
    await _until_told(processor)
    say(cpu_s=time.process_time())


async def member(redis: Client, *, name: str) -> None:
    """A member of a group, at its defaults, until SIGTERM."""

    async def nothing(partition: int, records: Sequence[Record]) -> Outputs:
        return Outputs()

    await _until_told(Processor(redis, CATALOG, SOURCE, nothing, member=name))


async def endless_producer(redis: Client, *, records: int) -> None:
    """Post as fast as the fabric lets it."""
    names, payload = list(KEY.values()), bytes(PAYLOAD_BYTES)
    async with Producer(redis, endless_catalog(), max_wait_s=60) as producer:
        say(ready=True)
        for n in range(records):
            await producer.post(OutRecord(SOURCE, names[n % len(names)], payload))
    say(done=records)
    signal.pause()


async def endless_processor(redis: Client, *, records: int) -> None:
    """Copy so many records."""
    done = 0

    async def copy(partition: int, batch: Sequence[Record]) -> Outputs:
        nonlocal done
        done += len(batch)
        if done >= records:
            processor.stop()
        return Outputs([OutRecord(SINK, KEY[partition], record.payload) for record in batch])

    processor = Processor(redis, endless_catalog(), SOURCE, copy)
    say(ready=True)
    await processor.run()
    say(done=done)
    signal.pause()


async def _until_told(processor: Processor) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, processor.stop)
    say(ready=True)
    await processor.run()


ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    role.__name__: role for role in (open_loop, copier, member, endless_producer, endless_processor)
}


async def main(role: str, url: str, arguments: dict[str, Any]) -> None:
    """Play one role."""
    redis = connect(url)
    await ROLES[role](redis, **arguments)
    await redis.aclose()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
