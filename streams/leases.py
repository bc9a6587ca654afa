"""Leases of partitions: who may process what, how one keeps what one has, and the commit that a lease entitles to."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence

import structlog
from redis.exceptions import RedisError

from runtime.errors import UnavailableError
from runtime.redis_client import AWAY, Client, capabilities
from streams import failpoints, metrics, scripts
from streams.catalog import Catalog, Stream
from streams.durability import Durability
from streams.partitions import require_partitions
from streams.reading import dead_letter
from streams.records import Outputs, Poison, Record

log = structlog.get_logger()

LEASE_MS = 2_000
"""A member that is silent for so long is dead, and its partitions go to others."""

_FULL_PAUSE_S = 0.05


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
        self, redis: Client, catalog: Catalog, stream: Stream, group: str, member: str | None, lease_ms: int
    ) -> None:
        self.redis = redis
        self.catalog = catalog
        self.stream = stream
        self.group = group
        self.member = member or uuid.uuid4().hex
        self.lease_ms = lease_ms
        self._held: dict[int, scripts.Lease] = {}

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two renewals."""
        return self.lease_ms / 8000

    async def acquire(self, partition: int) -> str | None:
        """Take a partition; returns the group's offset, or None when another member holds it.

        Raises ConfigurationError (PARTITIONS_DIFFER).
        """
        await require_partitions(self.redis, self.catalog)  # each time: they may have grown meanwhile
        taken = await scripts.acquire(self.redis, self.stream, self.group, partition, self.member, self.lease_ms)
        if taken is None:
            return None
        self._held[partition], offset = taken
        failpoints.hit("lease.acquired")
        metrics.REBALANCES.labels(self.stream.name, self.group).inc()
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
        """Renew what is held, and let go of what was lost."""
        for partition, lease in list(self._held.items()):
            kept = await scripts.renew(self.redis, self.stream, self.group, partition, lease, self.lease_ms)
            if not kept and self._held.get(partition) == lease:
                self.forget(partition)

    def require(self, partition: int) -> None:
        """Raise LeaseLostError when a partition is not held, as far as is known here."""
        if partition not in self._held:
            raise LeaseLostError

    async def commit(
        self,
        partition: int,
        expected_offset: str,
        records: Sequence[Record],
        outputs: Outputs,
        stopping: asyncio.Event | None = None,
    ) -> str:
        """Commit one step; returns the new offset. Waits while an output stream is full, until `stopping` is set: then
        LeaseLostError says that the step was not committed.

        Raises LeaseLostError, StreamFencedError, NotDurableError (the step is committed, but not as durable as an
        output stream demands), ValueError for an output that is of another partition.
        """
        for record in outputs.records:
            if self.catalog.partition_of(record.key) != partition:
                raise ValueError(f"{record.stream}: key {record.key!r} is not of partition {partition}")
        streams = {name: self.catalog.stream(name) for name in {record.stream for record in outputs.records}}
        new_offset = records[-1].entry_id
        full: set[str] = set()
        while True:
            failpoints.hit("commit.before")
            answer = await self._attempt(partition, expected_offset, records, outputs, streams, full)
            failpoints.hit("commit.after")
            if answer.status == "OK":
                self._count(records, outputs.dead)
                return new_offset
            if answer.status != "FULL":
                break
            if answer.stream not in full:
                full.add(answer.stream)  # once full, it must fall to its low water
                metrics.REFUSED.labels(self.stream.name, self.group, "FULL").inc()
                groups = ", ".join(streams[answer.stream].groups)
                log.warning("waiting: a stream is full", stream=answer.stream, groups=groups, backlog=answer.backlog)
            if await pause(stopping or asyncio.Event(), _FULL_PAUSE_S):
                raise LeaseLostError
        metrics.REFUSED.labels(self.stream.name, self.group, answer.status).inc()
        if answer.status == "FENCED":
            raise StreamFencedError(answer.strategy, answer.generation)
        raise LeaseLostError

    async def _attempt(
        self,
        partition: int,
        expected_offset: str,
        records: Sequence[Record],
        outputs: Outputs,
        streams: dict[str, Stream],
        full: set[str],
    ) -> scripts.Committed:
        lease = self._held.get(partition)
        if lease is None:
            raise LeaseLostError
        demands = [demand for demand in map(Durability.of, streams.values()) if demand is not None]
        return await scripts.commit(
            self.redis,
            self.stream,
            self.group,
            partition,
            lease,
            expected_offset=expected_offset,
            new_offset=records[-1].entry_id,
            read=len(records),
            outputs=outputs,
            output_streams={name: (stream, _limit(stream, name in full)) for name, stream in streams.items()},
            dead_letters=[self._dead_letter(poison) for poison in outputs.dead],
            entries_read=(await capabilities(self.redis)).entries_read,
            durability=max(demands, key=lambda demand: (demand.local, demand.replicas), default=None),
        )

    def _dead_letter(self, poison: Poison) -> tuple[bytes, str]:
        return dead_letter(poison, self.group).SerializeToString(), poison.record.traceparent

    def _count(self, records: Sequence[Record], dead: Sequence[Poison]) -> None:
        metrics.CONSUMED.labels(self.stream.name, self.group).inc(len(records))
        metrics.LAG_SECONDS.labels(self.stream.name, self.group).observe(records[0].age_s())
        for poison in dead:
            metrics.DEAD.labels(self.stream.name, self.group, poison.reason).inc()


def _limit(stream: Stream, was_full: bool) -> int:
    if stream.retention.policy != "committed":
        return 0
    return stream.low_water if was_full else stream.high_water


async def pause(ended: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until the event is set; returns whether it is."""
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Setbacks:
    """What goes wrong in a loop that goes on: told once for each cause, and followed by a pause of 0.1 s to 2 s."""

    def __init__(self, stream: str, group: str, partition: int | None = None) -> None:
        self._log = log.bind(stream=stream, group=group, **({} if partition is None else {"partition": partition}))
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

    def over(self) -> None:
        """Say that work goes on."""
        if self._told:
            self._log.info("resumed")
            self._told = ""
        self._seconds = 0.1


async def every(seconds: float, do: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function at an interval, for ever. An error of Redis is no reason to end; a bug is."""
    told = False
    while True:
        try:
            await do()
            told = False
        except (RedisError, OSError) as error:
            if not told and not isinstance(error, AWAY):  # whoever reads or commits tells that Redis is away
                log.error("heartbeat failed: trying again", error=str(error))
                told = True
        await asyncio.sleep(seconds)
