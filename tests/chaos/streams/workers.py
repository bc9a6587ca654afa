"""What runs in a process of its own: one life of a producer, or of a member that owns two processors in a row.

The first processor (features.raw → features.pit, orders) keeps a running count for each key as its state; the second
(features.pit → signals.chaos) copies. So every payload that comes out says which record it is the effect of.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import uvloop
from redis.exceptions import RedisError

from runtime.errors import ResourceExhaustedError, UnavailableError
from runtime.redis_client import Client, connect
from streams import Outputs, OutRecord, Processor, Producer, ProducerFencedError, Record, keys
from streams.durability import NotDurableError
from tests.chaos.streams import stacks
from tests.chaos.streams.lives import listen
from tests.chaos.streams.schedules import ORDER_EVERY, ORDERS, RAW, SIGNALS, STATE, VECTORS, Schedule, peaceful

FENCED_EXIT = 3
"""Exit code of a producer that was told to end: another one with its id has taken over."""

_SEND_AGAIN = (RedisError, OSError, ResourceExhaustedError, UnavailableError, NotDurableError)


async def produce(
    url: str, schedule: Schedule, producer: int, name: str, start: int, acknowledge: Callable[[int], None]
) -> int:
    """Publish from place `start` of the source on; returns the exit code.

    As the contract asks of an application: what was not acknowledged is sent again with the same event ids.
    """
    stacks.answer_when_asked()
    listen()
    source = schedule.source(producer)
    mode = schedule.producers[producer].mode
    rng = random.Random(name)
    client = connect(url, socket_timeout_s=1.0)
    sender = Producer(client, schedule.catalog, name, max_wait_s=3.0)
    at = start
    try:
        while at < len(source):
            batch = source[at : at + rng.randint(1, 30)]
            try:
                await _send(sender, batch, mode)
            except _SEND_AGAIN:
                if not schedule.event_ids:  # then nothing tells a second send from a new record
                    raise
                continue
            at += len(batch)
            acknowledge(at)
            await asyncio.sleep(rng.uniform(0, 0.02))
        await sender.close()
    except ProducerFencedError:
        with suppress(ProducerFencedError, *_SEND_AGAIN):  # of what was still on its way to other partitions
            await sender.close()
        return FENCED_EXIT
    finally:
        await client.aclose()
    return 0


async def _send(sender: Producer, batch: Sequence[OutRecord], mode: str) -> None:
    if mode == "send_many":
        await sender.send_many(batch)
    elif mode == "send":
        sent = await asyncio.gather(*(sender.send(record) for record in batch), return_exceptions=True)
        for failed in sent:
            if isinstance(failed, BaseException):
                raise failed
    else:
        for record in batch:
            await sender.post(record)
        await sender.flush()


async def process(url: str, schedule: Schedule, name: str) -> int:
    """Be a member of both groups until SIGTERM; returns the exit code."""
    stacks.answer_when_asked()
    client = connect(url, socket_timeout_s=1.0)
    counting = Counting(client, schedule)
    options = {"member": name, "batch_size": 12, "lease_ms": schedule.lease_ms}
    processors = [
        Processor(client, schedule.catalog, RAW, counting.transform, on_assigned=counting.load, **options),
        Processor(client, schedule.catalog, VECTORS, copy, **options),
    ]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: [processor.stop() for processor in processors])
    listen()
    await asyncio.gather(*(processor.run() for processor in processors))
    await client.aclose()
    return 0


class Counting:
    """The stateful transform."""

    def __init__(self, client: Client, schedule: Schedule) -> None:
        self._client = client
        self._poison = schedule.poison
        self._counts: dict[int, dict[str, int]] = {}

    async def load(self, partition: int) -> None:
        kept = await self._client.hgetall(keys.state(STATE, partition))
        self._counts[partition] = {key.decode(): int(count) for key, count in kept.items()}

    async def transform(self, partition: int, records: Sequence[Record]) -> Outputs:
        counts, made = self._counts[partition], Outputs()
        touched = set()
        for record in records:
            key, number = record.payload.decode().split("|")[:2]
            if (key, int(number)) in self._poison:
                raise ValueError(f"poison: {key}|{number}")
            counts[key] = counts.get(key, 0) + 1
            touched.add(key)
            made.records.append(OutRecord(VECTORS, key, f"{key}|{number}|{counts[key]}".encode()))
            if int(number) % ORDER_EVERY == 0:
                made.records.append(OutRecord(ORDERS, key, f"{key}|{number}".encode(), event_id=f"{key}|{number}"))
        made.state[STATE] = {key: str(counts[key]).encode() for key in touched}
        return made


async def copy(partition: int, records: Sequence[Record]) -> Outputs:
    return Outputs(
        [OutRecord(SIGNALS, record.payload.partition(b"|")[0].decode(), record.payload) for record in records]
    )


def main() -> int:
    """A member as a program of its own: URL, name and lease in ms; QUANTMESH_FAIL_POINTS says where it dies."""
    url, name, lease_ms = sys.argv[1:]
    return uvloop.run(process(url, replace(peaceful(0), lease_ms=int(lease_ms)), name))


if __name__ == "__main__":
    sys.exit(main())
