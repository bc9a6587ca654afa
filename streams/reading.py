"""Entries of Redis streams as records, and records as dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, cast

from redis.asyncio import RedisCluster

from quantmesh.streams.v1 import dead_letter_pb2
from runtime.redis_client import Client
from runtime.times import from_us, now_us
from streams import keys
from streams.catalog import Stream
from streams.records import Poison, Record

_LOOK_AGAIN_S = 0.005
BLOCK_MS = 200
"""How long a read waits for the first entry: also how long a stop may take to be noticed."""


async def read(
    redis: Client, stream: Stream, offsets: Mapping[int, str], count: int, block_ms: int | None = BLOCK_MS
) -> dict[int, list[Record]]:
    """Read up to `count` entries of each partition after its offset; waits for the first, up to `block_ms` (None: does
    not wait). Empty when none came."""
    if len(offsets) > 1 and isinstance(redis, RedisCluster):
        return await _read_each(redis, stream, offsets, count, block_ms or 0)
    by_key = {keys.entries(stream.name, partition).encode(): partition for partition in offsets}
    positions = {key: offsets[partition] for key, partition in by_key.items()}
    answer: Any = await redis.xread(cast(Any, positions), count=count, block=block_ms)
    if not answer:
        return {}
    # RESP3 answers with a map, RESP2 with pairs.
    pairs = answer.items() if isinstance(answer, dict) else answer
    found: dict[int, list[Record]] = {}
    for key, entries in pairs:
        if isinstance(answer, dict):
            entries = entries[0]
        partition = by_key[key]
        found[partition] = [_record(stream.name, partition, entry) for entry in entries]
    return found


async def _read_each(
    redis: Client, stream: Stream, offsets: Mapping[int, str], count: int, block_ms: int
) -> dict[int, list[Record]]:
    """Read partitions that are on different servers: no command waits for all of them, so look again often."""
    deadline = time.monotonic() + block_ms / 1000
    while True:
        each = await asyncio.gather(*(read(redis, stream, {p: offset}, count, None) for p, offset in offsets.items()))
        found = {partition: records for answer in each for partition, records in answer.items()}
        if found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(_LOOK_AGAIN_S)


async def last(redis: Client, stream: Stream, partition: int, until: str, count: int) -> list[Record]:
    """The last `count` entries of a partition up to and including an offset, oldest first."""
    entries: Any = await redis.xrevrange(keys.entries(stream.name, partition), max=until, min="-", count=count)
    return [_record(stream.name, partition, entry) for entry in reversed(entries)]


def _record(stream: str, partition: int, entry: tuple[bytes, dict[bytes, bytes]]) -> Record:
    entry_id, fields = entry
    traceparent = fields.get(keys.TRACEPARENT, b"").decode("ascii", "replace")
    # A foreign entry without the field is an empty payload: the reader's parser says what is wrong with it.
    return Record(stream, partition, entry_id.decode(), fields.get(keys.PAYLOAD, b""), traceparent)


def dead_letter(poison: Poison, group: str) -> dead_letter_pb2.DeadLetter:
    """The message that keeps a poison record."""
    record = poison.record
    return dead_letter_pb2.DeadLetter(
        stream=record.stream,
        partition=record.partition,
        entry_id=record.entry_id,
        group=group,
        reason=poison.reason,
        error=poison.error,
        attempts=poison.attempts,
        payload=record.payload,
        traceparent=record.traceparent,
        failed_at=from_us(now_us()),
    )
