"""The jobs of a work queue as the server keeps them: in the pending list of a real consumer group.

The group's state has the same two numbers as that of a group that owns its partitions. `read` counts the jobs that
ended, so that producers feel the backlog; `offset` lies just before the oldest job that has not, so that no trimming
comes near it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from runtime.errors import FailedPreconditionError, InvalidInputError
from runtime.lua import Scripts
from runtime.redis_client import Client
from streams import keys
from streams.catalog import Stream
from streams.reading import dead_letter
from streams.records import Poison, Record

log = structlog.get_logger()

_SCRIPTS = Scripts(Path(__file__).with_name("lua"))


@dataclass(frozen=True, slots=True)
class Job:
    """One record to work on."""

    record: Record
    attempt: int
    """1 for the first."""

    def about(self) -> dict[str, object]:
        """What a log line says of it."""
        record = self.record
        where = {"stream": record.stream, "partition": record.partition, "entry_id": record.entry_id}
        return {**where, "attempt": self.attempt}


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer of `take`."""

    job: Job | None
    claimed: bool = False
    """It was another member's, or failed before."""
    last_id: str = ""
    """Without a job: the newest entry that any member was ever given."""


class Jobs:
    """The jobs of one group on one stream, as one member of it sees them."""

    def __init__(self, redis: Client, stream: Stream, group: str, member: str, idle_ms: int) -> None:
        """Raises InvalidInputError (reason NOT_KEPT) when jobs would be trimmed before they are done."""
        if stream.retention.policy != "committed" or group not in stream.groups:
            raise InvalidInputError(
                f"a work queue on {stream.name} needs retention `committed`, and {group} among the declared groups "
                f"({', '.join(stream.groups)}): jobs would be trimmed before they are done",
                reason="NOT_KEPT",
            )
        self._redis = redis
        self._stream = stream
        self._group = group
        self._member = member
        self._idle_ms = idle_ms

    async def join(self, partition: int) -> None:
        """Make the group, if there is none. Raises FailedPreconditionError (reason GROUP_IS_LEASED)."""
        appended = keys.appended(self._stream.name, partition)
        names = (self._entries(partition), self._state(self._group, partition), appended)
        if not await _SCRIPTS.run(self._redis, "ack_join", names, (self._group,)):
            raise FailedPreconditionError(
                f"group {self._group} of {self._stream.name} belongs to a processor or a consumer: a work queue needs "
                "a group of its own",
                reason="GROUP_IS_LEASED",
            )

    async def take(self, partition: int, *, look: bool, without_attempt: int = 0) -> Taken:
        """Take the next job, without waiting for one. With `look`, one that is idle comes first, unless it would be
        this attempt at it."""
        names = (self._entries(partition), self._state(self._group, partition))
        arguments = (self._group, self._member, self._idle_ms, int(look), without_attempt)
        while True:
            kind, entry_id, *job = await _SCRIPTS.run(self._redis, "ack_take", names, arguments)
            if kind != b"GONE":
                break
            log.error("a job was deleted before it was done", entries=names[0], entry_id=entry_id.decode())
        if kind == b"NONE":
            return Taken(None, last_id=entry_id.decode())
        attempt, fields = job
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        traceparent = values.get(keys.TRACEPARENT, b"").decode("ascii", "replace")
        record = Record(self._stream.name, partition, entry_id.decode(), values.get(keys.PAYLOAD, b""), traceparent)
        return Taken(Job(record, attempt), claimed=kind == b"CLAIMED")

    async def wait(self, partition: int, last_id: str, block_ms: int) -> None:
        """Wait until a job comes after that id; does not take it."""
        await self._redis.xread({self._entries(partition): last_id}, count=1, block=block_ms)

    async def keep(self, partition: int, attempts: Mapping[str, int]) -> set[str]:
        """Renew claims (entry id → attempts used so far); returns the ids of those that are lost."""
        pairs = [value for pair in attempts.items() for value in pair]
        lost = await _SCRIPTS.run(
            self._redis, "ack_keep", (self._entries(partition),), (self._group, self._member, *pairs)
        )
        return {entry_id.decode() for entry_id in lost}

    async def end(self, record: Record, poison: Poison | None) -> bool:
        """Take a job off the queue, because it is done or because it is given up.

        False when it was off before, or when it is another member's by now and not done.
        """
        stream, partition = self._stream, record.partition
        names = (
            self._entries(partition),
            self._state(self._group, partition),
            keys.dead_letters(stream.name, partition),
            *(self._state(other, partition) for other in stream.groups if other != self._group),
        )
        arguments = (
            self._group,
            self._member,
            record.entry_id,
            round((stream.retention.keep_hours or 0) * 3_600_000),
            stream.dead_letter_max_records,
            dead_letter(poison, self._group).SerializeToString() if poison else b"",
            record.traceparent,
        )
        return bool(await _SCRIPTS.run(self._redis, "ack", names, arguments))

    def _entries(self, partition: int) -> str:
        return keys.entries(self._stream.name, partition)

    def _state(self, group: str, partition: int) -> str:
        return keys.group(self._stream.name, group, partition)
