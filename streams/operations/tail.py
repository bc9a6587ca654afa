"""Reading a stream as an operator does: all partitions in the order of their entries, without a group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from runtime.redis_client import Client
from streams import keys
from streams.catalog import Stream
from streams.leases import pause
from streams.operations.snapshot import order
from streams.reading import last
from streams.records import Record

PAGE = 500
_POLL_S = 0.1
_END = "+"


async def page(redis: Client, stream: Stream, partition: int, after: str, until: str = _END) -> list[Record]:
    """Up to `PAGE` records of a partition after an entry id, up to and including another."""
    found: Any = await redis.xrange(keys.entries(stream.name, partition), min=f"({after}", max=until, count=PAGE)
    return [
        Record(
            stream.name,
            partition,
            entry_id.decode(),
            fields.get(keys.PAYLOAD, b""),
            fields.get(keys.TRACEPARENT, b"").decode("ascii", "replace"),
        )
        for entry_id, fields in found
    ]


async def entries(
    redis: Client, stream: Stream, partition: int, *, after: str = "0-0", until: str = _END
) -> AsyncIterator[Record]:
    """The records of a partition after an entry id, up to and including another."""
    while True:
        records = await page(redis, stream, partition, after, until)
        for record in records:
            yield record
        if len(records) < PAGE:
            return
        after = records[-1].entry_id


async def newest(
    redis: Client, stream: Stream, partitions: Sequence[int], count: int
) -> tuple[list[Record], dict[int, str]]:
    """The newest `count` records of these partitions together, oldest first; and where each of them ended then."""
    found: list[Record] = []
    ends: dict[int, str] = {}
    for partition in partitions:
        records = await last(redis, stream, partition, _END, max(count, 1))
        if records:
            ends[partition] = records[-1].entry_id
        found += records
    return sorted(found, key=_position)[len(found) - min(count, len(found)) :], ends


async def from_beginning(redis: Client, stream: Stream, partitions: Sequence[int]) -> AsyncIterator[Record]:
    """Every record that is there, the partitions merged by entry id."""
    sources = {partition: entries(redis, stream, partition) for partition in partitions}
    heads: dict[int, Record] = {}
    for partition, source in sources.items():
        head = await anext(source, None)
        if head is not None:
            heads[partition] = head
    while heads:
        record = min(heads.values(), key=_position)
        yield record
        head = await anext(sources[record.partition], None)
        if head is None:
            del heads[record.partition]
        else:
            heads[record.partition] = head


async def following(
    redis: Client, stream: Stream, after: dict[int, str], ended: asyncio.Event
) -> AsyncIterator[Record]:
    """The records that come after an entry id of each partition, until the event is set."""
    while not ended.is_set():
        found: list[Record] = []
        for partition, offset in after.items():
            found += await page(redis, stream, partition, offset)
        for record in sorted(found, key=_position):
            after[record.partition] = record.entry_id
            yield record
        if not found:
            await pause(ended, _POLL_S)


def _position(record: Record) -> tuple[tuple[int, int], int]:
    return order(record.entry_id), record.partition
