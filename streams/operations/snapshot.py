"""A partition as it is at one instant: entries, counters and groups, read by one script so that they fit together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.lua import Scripts
from runtime.redis_client import Client
from streams import keys

SCRIPTS = Scripts(Path(__file__).with_name("lua"))

_AT_ONCE = 16
"""Partitions that are asked at once: each takes a connection."""


def milliseconds(entry_id: str) -> int:
    """When the server appended an entry, milliseconds since 1970."""
    return int(entry_id.partition("-")[0])


def order(entry_id: str) -> tuple[int, int]:
    """An entry id as something that sorts."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


@dataclass(frozen=True, slots=True)
class GroupSnapshot:
    """A group's lease and progress in one partition."""

    name: str
    owner: str
    """Member that holds the lease; empty when none does, or its lease is over."""
    epoch: int
    offset: str
    read: int
    """Records that it has committed, or jobs that have ended."""
    lost: int
    """Records that were trimmed before it read them."""
    is_work_queue: bool
    """Its members take jobs; without leases, and in no order."""
    dropped: bool
    """An operator said that nobody need wait for it."""
    next_id: str
    """First entry after the offset; empty when there is none."""
    pending: int
    """Entries in the pending list of the real consumer group: taken from a work queue, not acknowledged yet."""
    lag_records: int
    lag_ms: int
    """Age of the oldest record after the offset, by the server's clock."""


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """One partition of one stream."""

    partition: int
    appended: int
    """Records ever appended by producers and processors."""
    records: int
    """Entries that are there."""
    first_id: str
    """Oldest entry; empty when there is none."""
    last_id: str
    end: str
    """The last id that was ever given; `0-0` when none was."""
    added: int | None
    """Entries ever added, by whoever did, as the server counts them; None when it does not (before Redis 7)."""
    deleted_id: str
    """Newest entry that was deleted by hand; `0-0` when none was."""
    dead_letters: int
    groups: tuple[GroupSnapshot, ...]


async def snapshot(redis: Client, stream: str, groups: Sequence[str], partition: int) -> PartitionSnapshot:
    """Look at a partition of a stream, and at these of its groups."""
    names = (
        keys.entries(stream, partition),
        keys.appended(stream, partition),
        keys.dead_letters(stream, partition),
        *(keys.group(stream, group, partition) for group in groups),
    )
    answer = await SCRIPTS.run(redis, "snapshot", names, groups)
    now_ms, appended, records, first, last, end, added, deleted, dead, states = answer
    appended, records, first_id = int(appended), int(records), first.decode()
    return PartitionSnapshot(
        partition=partition,
        appended=appended,
        records=records,
        first_id=first_id,
        last_id=last.decode(),
        end=end.decode(),
        added=int(added) if int(added) >= 0 else None,
        deleted_id=deleted.decode(),
        dead_letters=int(dead),
        groups=tuple(
            _group(name, state, now_ms=int(now_ms), appended=appended, records=records, first_id=first_id)
            for name, state in zip(groups, states, strict=True)
        ),
    )


def _group(
    name: str, state: Sequence[bytes], *, now_ms: int, appended: int, records: int, first_id: str
) -> GroupSnapshot:
    owner, until_ms, epoch, offset, read, lost, dropped, mode, next_id = map(bytes.decode, state[:9])
    lag_records = 0
    is_work_queue = mode == "work_queue"
    if next_id == first_id and not is_work_queue:
        lag_records = records  # nothing that is there has been read
    elif next_id:
        lag_records = min(max(appended - int(read) - int(lost), 1), records)
    return GroupSnapshot(
        name=name,
        owner=owner if int(until_ms) > now_ms else "",
        epoch=int(epoch),
        offset=offset,
        read=int(read),
        lost=int(lost),
        is_work_queue=is_work_queue,
        dropped=bool(dropped),
        next_id=next_id,
        pending=int(state[9]),
        lag_records=lag_records,
        lag_ms=max(0, now_ms - milliseconds(next_id)) if next_id else 0,
    )


async def snapshots(redis: Client, stream: str, groups: Sequence[str], partitions: int) -> list[PartitionSnapshot]:
    """All partitions of a stream; each at its own instant."""
    found: list[PartitionSnapshot] = []
    for first in range(0, partitions, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, partitions))
        found += await asyncio.gather(*(snapshot(redis, stream, groups, partition) for partition in some))
    return found
