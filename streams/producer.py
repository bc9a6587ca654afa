"""The producer: appends records to streams, each once, in the order given for each key.

As Kafka's idempotent producer: (producer id, epoch, sequence) for each stream and partition. A batch that is sent
again because its answer was lost is recognised, so retries never duplicate. When a send fails for good with its result
unknown, the producer moves to a new epoch, which fences whatever of the old one is still under way.

An `event_id` protects beyond that: across producers and processes, for the stream's `deduplication_hours` at least, by
the server's clock.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import structlog

from runtime.errors import FailedPreconditionError, InvalidInputError, ResourceExhaustedError
from runtime.redis_client import AWAY, Client
from streams import failpoints, metrics, scripts
from streams.catalog import Catalog, Stream
from streams.durability import Durability, NotDurableError
from streams.lanes import Lanes
from streams.partitions import require_partitions
from streams.records import OutRecord

log = structlog.get_logger()

_KEEP_STATE_MS = 24 * 3_600_000
_MAX_BATCH = 500
"""Records of one script call: long scripts hold up everyone else on the server."""

_TRY_AGAIN: tuple[type[Exception], ...] = (*AWAY, NotDurableError)
_MAX_PAUSE_S = 0.5
MAX_WAIT_S = 5.0
MAX_IN_FLIGHT_BYTES = 32 * 1024 * 1024


class ProducerFencedError(FailedPreconditionError):
    """Another producer with the same id and a newer epoch has taken over; this one must end."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of records."""

    accepted: int = 0
    duplicates: int = 0


class _Partition:
    """What a producer knows of its state in one partition. One batch at a time goes there, so that order holds."""

    __slots__ = ("epoch", "lock", "next_sequence")

    def __init__(self, epoch: int) -> None:
        self.lock = asyncio.Lock()
        self.epoch = epoch
        self.next_sequence: dict[str, int] = defaultdict(lambda: 1)

    def new_epoch(self) -> None:
        self.epoch += 1
        self.next_sequence.clear()


class Producer:
    """Appends records. Safe to use from several tasks of one event loop.

    Guarantee: a record is appended exactly once when a send returns, and at most once when it raises; after one that
    raised, send again with the same event ids. Conditions: one primary with AOF; what a crash of the server can lose
    is what its stream's `durability` does not wait for.

    `send_many` writes at once. `send` and `post` gather records by size and by time (the stream's `batch_size` and
    `max_batch_delay_ms`) and need `async with`, or a `close` at the end.
    """

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        producer_id: str | None = None,
        *,
        max_wait_s: float = MAX_WAIT_S,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
    ) -> None:
        """A `producer_id` makes a name of its own: the last producer that begins with it (by `async with`, or its first
        send) fences those before. Default: a new one.

        `max_wait_s` is how long a send waits for a server that is away, a stream that is full or a disk that is slow;
        `max_in_flight_bytes` is how much `send` and `post` hold in memory before they wait.
        """
        self._redis = redis
        self._catalog = catalog
        self._id = producer_id or uuid.uuid4().hex
        self._max_wait_s = max_wait_s
        self._must_claim = producer_id is not None
        self._first_epoch = time.time_ns() // 1000
        self._partitions: dict[int, _Partition] = defaultdict(lambda: _Partition(self._first_epoch))
        self._checked: set[str] = set()
        self._checking = asyncio.Lock()
        self._unchecked = 0  # how many are in line for that lock
        self._introductions_failed = 0
        self._introduction_error: Exception | None = None
        self._lanes = Lanes(catalog, self._send_lane, max_in_flight_bytes)

    async def __aenter__(self) -> Producer:
        async with self._checking:
            await self._claim()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send_many(self, records: Sequence[OutRecord]) -> SendResult:
        """Append records, in order for each key; different partitions go at once.

        Raises, before anything is written, NotFoundError for an unknown stream, InvalidInputError for a record without
        the identity that its stream demands, and ConfigurationError (PARTITIONS_DIFFER). After `max_wait_s`:
        ResourceExhaustedError (STREAM_FULL), NotDurableError, redis-py's errors when the server is away. At once:
        ProducerFencedError, FailedPreconditionError (DURABILITY_UNSUPPORTED).
        """
        by_lane: dict[tuple[str, int], list[OutRecord]] = defaultdict(list)
        for record in records:
            by_lane[record.stream, self._catalog.partition_of(record.key)].append(record)
        for stream, partition in by_lane:
            await self._check(self._catalog.stream(stream), by_lane[stream, partition])
        sent = await asyncio.gather(
            *(self._send_lane(stream, partition, batch) for (stream, partition), batch in by_lane.items()),
            return_exceptions=True,  # every lane settles before the caller hears of a failure
        )
        accepted = duplicates = 0
        for result in sent:
            if isinstance(result, BaseException):
                raise result
            accepted += result.accepted
            duplicates += result.duplicates
        return SendResult(accepted, duplicates)

    async def send(self, record: OutRecord) -> None:
        """Append a record together with others; returns when it is there. Raises what `send_many` raises."""
        await self._check(self._catalog.stream(record.stream), [record])
        await self._lanes.send(record)

    async def post(self, record: OutRecord) -> None:
        """Append a record in the background; returns as soon as there is room for it in memory.

        What goes wrong is raised by the next `post` or `flush`, once. What was posted behind a record that failed, in
        its partition, failed too: post again from the first that is not known to be there.
        """
        self._lanes.raise_failed()
        await self._check(self._catalog.stream(record.stream), [record])
        await self._lanes.post(record)

    async def flush(self) -> None:
        """Return when every record so far is there. Raises the first error of a posted one."""
        await self._lanes.flush()

    async def close(self) -> None:
        """Flush, and end."""
        await self._lanes.close()

    async def _check(self, stream: Stream, records: Sequence[OutRecord]) -> None:
        if stream.idempotency_field and not all(record.event_id for record in records):
            raise InvalidInputError.of_field(
                "event_id", f"is required on {stream.name}: the record's {stream.idempotency_field}"
            )
        if self._unchecked or stream.name not in self._checked:
            self._unchecked += 1
            try:
                await self._be_introduced(stream)
            finally:
                self._unchecked -= 1

    async def _be_introduced(self, stream: Stream) -> None:
        failures = self._introductions_failed
        async with self._checking:  # everyone waits here, in the order of arrival, which the records keep
            if self._introductions_failed != failures and self._introduction_error is not None:
                raise self._introduction_error  # who waited behind one that failed must not be written before it
            deadline = time.monotonic() + self._max_wait_s
            while stream.name not in self._checked:
                try:
                    await self._introduce(stream)
                except AWAY as error:
                    if time.monotonic() > deadline:
                        self._introductions_failed, self._introduction_error = failures + 1, error
                        raise
                    await asyncio.sleep(_MAX_PAUSE_S * random.uniform(0.1, 0.5))

    async def _introduce(self, stream: Stream) -> None:
        """Ask the server what must be known before the first record of a stream."""
        await require_partitions(self._redis, self._catalog)
        await self._claim()
        durability = Durability.of(stream)
        if durability is not None:
            await durability.require(self._redis)
        self._checked.add(stream.name)

    async def _claim(self) -> None:
        """Take the name over from whoever had it before: a higher epoch, even if this clock was set back."""
        if self._must_claim:
            self._first_epoch = await scripts.claim(self._redis, self._id, self._first_epoch)
            self._must_claim = False

    async def _send_lane(self, stream: str, partition: int, records: Sequence[OutRecord]) -> SendResult:
        accepted = duplicates = 0
        known = self._partitions[partition]
        async with known.lock:
            for start in range(0, len(records), _MAX_BATCH):
                answer = await self._send(
                    self._catalog.stream(stream), partition, known, records[start : start + _MAX_BATCH]
                )
                accepted += answer.accepted
                duplicates += answer.duplicates
                if answer.dropped:
                    metrics.DROPPED.labels(stream).inc(answer.dropped)
        metrics.PRODUCED.labels(stream).inc(accepted)
        metrics.DUPLICATES.labels(stream).inc(duplicates)
        return SendResult(accepted, duplicates)

    async def _send(
        self, stream: Stream, partition: int, known: _Partition, records: Sequence[OutRecord]
    ) -> scripts.Produced:
        deadline = time.monotonic() + self._max_wait_s
        pause_s = 0.01
        limit = stream.high_water if stream.retention.policy == "committed" else 0
        try:
            while True:
                failure: Exception
                try:
                    answer = await self._attempt(stream, partition, known, records, limit)
                except _TRY_AGAIN as error:
                    failure = error  # the same sequences again: what was written is recognised
                else:
                    if answer.status == "OK":
                        known.next_sequence[stream.name] += len(records)
                        return answer
                    if answer.status == "GAP":
                        self._forgotten(stream, partition, known, answer)
                        continue
                    limit = stream.low_water  # once full, it must fall to there
                    failure = _full(stream, partition, answer.at)
                if time.monotonic() + pause_s > deadline:
                    raise failure
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, _MAX_PAUSE_S)
        except BaseException:  # the result is unknown, whatever it was
            known.new_epoch()
            raise

    async def _attempt(
        self, stream: Stream, partition: int, known: _Partition, records: Sequence[OutRecord], limit: int
    ) -> scripts.Produced:
        failpoints.hit("produce.before")
        answer = await scripts.produce(
            self._redis,
            stream,
            partition,
            producer_id=self._id,
            epoch=known.epoch,
            first_sequence=known.next_sequence[stream.name],
            keep_state_ms=_KEEP_STATE_MS,
            limit=limit,
            records=records,
            durability=Durability.of(stream),
        )
        failpoints.hit("produce.after")
        if answer.status == "FENCED":
            raise ProducerFencedError(
                f"producer {self._id} was fenced in {stream.name}, partition {partition}: another with its id has "
                f"epoch {answer.at}",
                reason="PRODUCER_FENCED",
            )
        return answer

    def _forgotten(self, stream: Stream, partition: int, known: _Partition, answer: scripts.Produced) -> None:
        """The server knows less of this producer than it acknowledged: begin anew, and say so if records were lost."""
        if answer.known_epoch:
            log.error(
                "the server lost acknowledged records: it crashed, and its disk was behind",
                stream=stream.name,
                partition=partition,
                lost=known.next_sequence[stream.name] - 1 - answer.at,
            )
        known.new_epoch()


def _full(stream: Stream, partition: int, backlog: int) -> ResourceExhaustedError:
    groups = ", ".join(stream.groups)
    return ResourceExhaustedError(
        f"{stream.name}, partition {partition} is full: {backlog} records wait for the slowest of its groups "
        f"({groups}); start its consumers, or drop the group (quantmesh streams groups drop)",
        reason="STREAM_FULL",
        retry_after_s=1.0,
        metadata={"stream": stream.name, "partition": str(partition), "backlog": str(backlog)},
    )
