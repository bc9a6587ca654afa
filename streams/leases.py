"""Leases of partitions: who may process what, and the loop that keeps the leases one has."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from redis.asyncio import Redis

from runtime.errors import UnavailableError
from runtime.redis_client import AWAY
from streams import metrics, scripts
from streams.catalog import Catalog, Stream
from streams.reading import dead_letter
from streams.records import Outputs, Poison, Record

log = structlog.get_logger()

LEASE_MS = 2_000
"""A member that is silent for so long is dead, and its partitions go to others."""


class LeaseLostError(Exception):
    """Another member owns the partition now, or its offset is not where this member left it."""


class StreamFencedError(Exception):
    """The partition accepts no signal of `strategy` made under a generation lower than `generation`."""

    def __init__(self, strategy: str, generation: int) -> None:
        super().__init__(f"strategy {strategy} is fenced below generation {generation}")
        self.strategy = strategy
        self.generation = generation


class Leases:
    """The leases that one member of a group holds on one stream's partitions."""

    def __init__(
        self, redis: Redis, catalog: Catalog, stream: Stream, group: str, member: str | None, lease_ms: int
    ) -> None:
        self.redis = redis
        self.catalog = catalog
        self.stream = stream
        self.group = group
        self.member = member or uuid.uuid4().hex
        self.lease_ms = lease_ms
        self._held: dict[int, scripts.Lease] = {}
        self._entries_read: bool | None = None

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two renewals."""
        return self.lease_ms / 4000

    async def acquire(self, partition: int) -> str | None:
        """Take a partition; returns the group's offset, or None when another member holds it."""
        taken = await scripts.acquire(self.redis, self.stream, self.group, partition, self.member, self.lease_ms)
        if taken is None:
            return None
        self._held[partition], offset = taken
        return offset

    async def release(self, partition: int) -> None:
        """Give a partition back, so that another member need not wait for the lease to end."""
        lease = self._held.pop(partition, None)
        if lease is not None:
            await scripts.renew(self.redis, self.stream, self.group, partition, lease, 0)

    def forget(self, partition: int) -> None:
        """Stop renewing a lease that was lost."""
        self._held.pop(partition, None)

    async def live_members(self, *, leave: bool = False) -> list[str]:
        """Say that this member is alive, or leaves; returns the live members, sorted."""
        return await scripts.heartbeat(self.redis, self.stream, self.group, self.member, self.lease_ms, leave=leave)

    async def renew_all(self) -> None:
        """Renew what is held. A lease that was lost is found out by its next commit."""
        for partition, lease in list(self._held.items()):
            await scripts.renew(self.redis, self.stream, self.group, partition, lease, self.lease_ms)

    async def commit(
        self,
        partition: int,
        expected_offset: str,
        records: Sequence[Record],
        outputs: Outputs,
    ) -> str:
        """Commit one step; returns the new offset. Raises LeaseLostError, StreamFencedError."""
        lease = self._held.get(partition)
        if lease is None:
            raise LeaseLostError
        for record in outputs.records:
            if self.catalog.partition_of(record.key) != partition:
                raise ValueError(f"{record.stream}: key {record.key!r} is not of partition {partition}")
        new_offset = records[-1].entry_id
        answer = await scripts.commit(
            self.redis,
            self.stream,
            self.group,
            partition,
            lease,
            expected_offset=expected_offset,
            new_offset=new_offset,
            read=len(records),
            outputs=outputs,
            output_streams={
                name: (self.catalog.stream(name), 0) for name in {record.stream for record in outputs.records}
            },
            dead_letters=[self._dead_letter(poison) for poison in outputs.dead],
            entries_read=await self._takes_entries_read(),
        )
        # An offset that is already where this commit puts it: its first answer was lost on the way.
        if answer.status == "OK" or (answer.status == "OFFSET_MOVED" and answer.offset == new_offset):
            self._count(records, outputs.dead)
            return new_offset
        metrics.REFUSED.labels(self.stream.name, self.group, answer.status).inc()
        if answer.status == "FENCED":
            raise StreamFencedError(answer.strategy, answer.generation)
        raise LeaseLostError

    def _dead_letter(self, poison: Poison) -> tuple[bytes, str]:
        return dead_letter(poison, self.group).SerializeToString(), poison.record.traceparent

    def _count(self, records: Sequence[Record], dead: Sequence[Poison]) -> None:
        metrics.CONSUMED.labels(self.stream.name, self.group).inc(len(records))
        metrics.LAG_SECONDS.labels(self.stream.name, self.group).observe(records[0].age_s())
        for poison in dead:
            metrics.DEAD.labels(self.stream.name, self.group, poison.reason).inc()

    async def _takes_entries_read(self) -> bool:
        if self._entries_read is None:
            server = await self.redis.info("server")
            self._entries_read = int(str(server["redis_version"]).split(".")[0]) >= 7
        return self._entries_read


async def pause(ended: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until the event is set; returns whether it is."""
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Backoff:
    """Waiting times that double from 0.1 s to 2 s, and the one log line of each cause."""

    def __init__(self, stream: str, group: str) -> None:
        self._log = log.bind(stream=stream, group=group)
        self._seconds = 0.1
        self._told = ""

    async def after(self, error: BaseException, ended: asyncio.Event) -> None:
        """Tell of the error (a pause while Redis is away, a bug with its stack) and wait."""
        cause = repr(error)
        if cause != self._told:
            self._told = cause
            if isinstance(error, AWAY):
                self._log.warning("Redis is away: paused", error=str(error))
            elif isinstance(error, UnavailableError):  # the transform waits for something, and says so
                self._log.warning("waiting", error=error.message)
            else:
                self._log.error("step failed: trying again", exc_info=error)
        await pause(ended, self._seconds)
        self._seconds = min(self._seconds * 2, 2.0)

    def reset(self) -> None:
        """Say that work goes on."""
        if self._told:
            self._log.info("resumed")
            self._told = ""
        self._seconds = 0.1


async def every(seconds: float, ended: asyncio.Event, do: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function at an interval until the event is set; Redis being away is no reason to end."""
    while True:
        with suppress(*AWAY):  # whoever reads or commits tells of it
            await do()
        if await pause(ended, seconds):
            return
