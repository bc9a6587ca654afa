"""The pipeline from `market_data.trades` to `features.raw`: ticks in, the raw features of each closed session out.

It looks across symbols, hence across partitions, so it is a consumer: effects first, then the offset. After a crash
between the two it rebuilds the market from the committed ticks, reads the others again, and publishes the same records
under the same event ids, which the stream refuses as duplicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import structlog
from redis.asyncio import Redis

from feature_svc import convert, metrics
from feature_svc.entry_clock import appended_us
from feature_svc.feature_sets import FeatureSet
from feature_svc.features import FEATURE_NAMES, WINDOW
from feature_svc.market import SILENCE_US, CrossSection, Market
from feature_svc.pit import RawFeature, Violation
from feature_svc.pit_pipeline import RAW
from runtime import telemetry
from streams import Batch, Catalog, Consumer, OutRecord, Poison, Producer, Record
from streams.leases import LEASE_MS
from streams.reading import last

log = structlog.get_logger()

TRADES = "market_data.trades"
SOURCE = "feature_svc"

_SLACK_SESSIONS = 60
"""History that is read beyond the window at first; more is read when it turns out too short."""

_SEND_AT_LEAST = 2_000
"""Records that are gathered before they are sent."""


class MarketPipeline:
    """Computes the features of a universe from its ticks, in one process of the mesh at a time."""

    def __init__(
        self,
        redis: Redis,
        catalog: Catalog,
        producer: Producer,
        feature_set: FeatureSet,
        *,
        skew_us: int,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._redis = redis
        self._catalog = catalog
        self._producer = producer
        self._universe = feature_set.universe
        self._skew_us = skew_us
        most_symbols = max(Counter(map(catalog.partition_of, self._universe)).values())
        self._history = most_symbols * (WINDOW + _SLACK_SESSIONS)
        self._market = self._new_market()
        self._consumer = Consumer(
            redis,
            catalog,
            TRADES,
            self._handle,
            on_assigned=self._rebuild,
            history_per_partition=self._history,
            lease_ms=lease_ms,
        )

    async def run(self) -> None:
        """Consume until `stop` is called."""
        await self._consumer.run()

    def stop(self) -> None:
        """Make `run` finish the step under way and return."""
        self._consumer.stop()

    async def _handle(self, batches: Sequence[Batch]) -> list[Poison]:
        dead: list[Poison] = []
        for batch in batches:
            for record in batch.records:
                violation = self._take(self._market, record)
                if violation is not None:
                    metrics.BAD_TICKS.labels(violation.reason).inc()
                    dead.append(Poison(record, violation.reason, f"{violation.field} {violation.description}"))
        waiting: list[OutRecord] = []
        for section in self._market.close():
            waiting += self._raw_features(section)
            metrics.CROSS_SECTIONS.inc()
            if len(waiting) >= _SEND_AT_LEAST:
                await self._producer.send_many(waiting)
                waiting = []
        await self._producer.send_many(waiting)
        return dead

    def _take(self, market: Market, record: Record) -> Violation | None:
        try:
            tick = convert.parse_tick(record.payload)
        except convert.UnparsableError as error:
            return Violation("UNPARSABLE", "payload", str(error))
        return market.accept(tick, appended_us(record), self._skew_us, record.traceparent)

    def _raw_features(self, section: CrossSection) -> Iterator[OutRecord]:
        for place, symbol in enumerate(self._universe):
            if symbol not in section.traceparents:
                continue
            values = section.values[place]
            traceparent = section.traceparents[symbol]
            if not traceparent:
                yield from self._of_symbol(symbol, section, values.tolist(), "")
                continue
            with telemetry.span("raw features", traceparent, symbol=symbol) as span:
                own = telemetry.format_traceparent(span.get_span_context())
                yield from self._of_symbol(symbol, section, values.tolist(), own)

    @staticmethod
    def _of_symbol(
        symbol: str, section: CrossSection, values: Sequence[float], traceparent: str
    ) -> Iterator[OutRecord]:
        for name, value in zip(FEATURE_NAMES, values, strict=True):
            if not np.isfinite(value):  # the history is too short yet
                continue
            event_id = f"{symbol}:{name}:{section.event_time_us}:0"
            raw = RawFeature(
                symbol, name, value, section.event_time_us, section.available_at_us, SOURCE, event_id=event_id
            )
            yield OutRecord(RAW, symbol, convert.raw_payload(raw), traceparent, event_id)

    async def _rebuild(self, history: Sequence[Record]) -> None:
        """Make the market that the committed ticks lead to, without effects.

        Reads back until nothing older can matter: partitions may have been read far ahead of one another, and then
        the window begins early in those that are ahead.
        """
        count = self._history
        while True:
            market, whole = self._replay(history, count)
            if whole:
                break
            count *= 4
            ends = {record.partition: record.entry_id for record in history}  # the last of each partition
            stream = self._catalog.stream(TRADES)
            history = [
                record
                for partition, end in ends.items()
                for record in await last(self._redis, stream, partition, end, count)
            ]
        self._market = market
        if history:
            log.info("market rebuilt", ticks=len(history))

    def _replay(self, history: Sequence[Record], count: int) -> tuple[Market, bool]:
        """The market of a history of at most `count` records a partition, and whether more would not change it."""
        market = self._new_market()
        of_partition: dict[int, list[Record]] = {}
        for record in history:
            self._take(market, record)
            of_partition.setdefault(record.partition, []).append(record)
        market.close_silently()
        cut_off = [records for records in of_partition.values() if len(records) >= count]
        return market, all(market.remembers_from(_begins_us(records)) for records in cut_off)

    def _new_market(self) -> Market:
        return Market(self._universe, self._catalog.partition_of)


def _begins_us(records: Sequence[Record]) -> int:
    """Event time after which a partition's history that was cut off is whole.

    No tick before the cut lies ahead of the newest tick there, and no accepted tick after it lies further behind that
    one than the silence allowed. A tenth of the records are looked at, because the first may be late ones.
    """
    newest_us = 0
    for record in records[: max(1, len(records) // 10)]:
        try:
            newest_us = max(newest_us, convert.parse_tick(record.payload).event_time_us or 0)
        except convert.UnparsableError:
            continue
    return newest_us + SILENCE_US
