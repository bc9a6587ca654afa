"""The producer: appends records to streams, each once, in the order given for each key.

As Kafka's idempotent producer: (producer id, epoch, sequence) for each stream and partition. A batch that is sent
again because its answer was lost is recognised. When a send fails with its result unknown, the producer moves to a new
epoch, which fences whatever of the old one is still under way.

An `event_id` protects beyond that: across producers and processes, for at least DEDUPLICATION_WINDOW_S.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis

from runtime.errors import FailedPreconditionError
from streams import metrics, scripts
from streams.catalog import Catalog
from streams.records import OutRecord

log = structlog.get_logger()

DEDUPLICATION_WINDOW_S = 3600
"""An event id is remembered for at least so long, and at most twice that."""

_KEEP_STATE_MS = 24 * 3_600_000
_MAX_BATCH = 500
"""Records of one script call: long scripts hold up everyone else on the server."""


class ProducerFencedError(FailedPreconditionError):
    """Another producer with the same id and a newer epoch has taken over; this one must end."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of a batch."""

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

    Guarantee: a record is appended exactly once when `send_many` returns, and at most once when it raises; of a batch
    that raised, call again with the same event ids. Conditions: one primary with AOF; with `appendfsync everysec` a
    crash of the server can lose the last second of what it acknowledged.
    """

    def __init__(self, redis: Redis, catalog: Catalog, producer_id: str | None = None) -> None:
        """A `producer_id` makes a name of its own, and must not be used twice at once; default: a new one."""
        self._redis = redis
        self._catalog = catalog
        self._id = producer_id or uuid.uuid4().hex
        first_epoch = time.time_ns() // 1000  # newer than that of any earlier process with the same id
        self._partitions: dict[int, _Partition] = defaultdict(lambda: _Partition(first_epoch))

    async def send_many(self, records: Sequence[OutRecord]) -> SendResult:
        """Append records, in order for each key; different partitions go at once.

        Raises NotFoundError for an unknown stream (before anything is written), ProducerFencedError, and redis-py's
        errors when the server is away.
        """
        by_lane: dict[tuple[str, int], list[OutRecord]] = defaultdict(list)
        for record in records:
            by_lane[record.stream, self._catalog.partition_of(record.key)].append(record)
        for stream in {stream for stream, _ in by_lane}:
            self._catalog.stream(stream)
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

    async def _send_lane(self, stream: str, partition: int, records: Sequence[OutRecord]) -> SendResult:
        accepted = duplicates = 0
        known = self._partitions[partition]
        async with known.lock:
            for start in range(0, len(records), _MAX_BATCH):
                answer = await self._send(stream, partition, known, records[start : start + _MAX_BATCH])
                accepted += answer.accepted
                duplicates += answer.duplicates
                if answer.dropped:
                    metrics.DROPPED.labels(stream).inc(answer.dropped)
        metrics.PRODUCED.labels(stream).inc(accepted)
        metrics.DUPLICATES.labels(stream).inc(duplicates)
        return SendResult(accepted, duplicates)

    async def _send(
        self, stream: str, partition: int, known: _Partition, records: Sequence[OutRecord]
    ) -> scripts.Produced:
        while True:
            first = known.next_sequence[stream]
            try:
                answer = await scripts.produce(
                    self._redis,
                    self._catalog.stream(stream),
                    partition,
                    producer_id=self._id,
                    epoch=known.epoch,
                    first_sequence=first,
                    bucket=int(time.time()) // DEDUPLICATION_WINDOW_S,
                    keep_ids_ms=2 * DEDUPLICATION_WINDOW_S * 1000,
                    keep_state_ms=_KEEP_STATE_MS,
                    limit=0,
                    records=records,
                )
            except BaseException:  # the result is unknown, whatever it was
                known.new_epoch()
                raise
            if answer.status == "OK":
                known.next_sequence[stream] = first + len(records)
                return answer
            if answer.status == "FENCED":
                raise ProducerFencedError(
                    f"producer {self._id} was fenced in {stream}, partition {partition}: another with its id has "
                    f"epoch {answer.at}",
                    reason="PRODUCER_FENCED",
                )
            # The server knows fewer records than it acknowledged: it crashed and lost its last second.
            log.error(
                "the server lost acknowledged records", stream=stream, partition=partition, lost=first - 1 - answer.at
            )
            known.new_epoch()
