"""The pipeline from `market_data.trades` to `features.raw`: ticks in, the raw features of each closed session out.

It looks across symbols, hence across partitions, so it is a consumer: effects first, then the offset. The effects are
the raw features, then the closes that they were made of (`closes`). After a crash between any two of these it rebuilds
the market from the closes that are kept, reads what is not committed again, and publishes the same records under the
same event ids, which the stream refuses as duplicates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import structlog

from feature_svc import convert, metrics
from feature_svc.closes import Close, Closes
from feature_svc.entry_clock import appended_us
from feature_svc.feature_sets import FeatureSet
from feature_svc.features import FEATURE_NAMES, WINDOW
from feature_svc.market import CrossSection, Market, Taken
from feature_svc.pit import RawFeature, Violation
from feature_svc.pit_pipeline import RAW
from runtime import telemetry
from runtime.redis_client import Client
from streams import Batch, Catalog, Consumer, OutRecord, Poison, Producer, Record
from streams.leases import LEASE_MS

log = structlog.get_logger()

TRADES = "market_data.trades"
SOURCE = "feature_svc"

_SEND_AT_LEAST = 2_000
"""Records that are gathered before they are sent."""


class MarketPipeline:
    """Computes the features of a universe from its ticks, in one process of the mesh at a time."""

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        producer: Producer,
        feature_set: FeatureSet,
        *,
        skew_us: int,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._catalog = catalog
        self._producer = producer
        self._feature_set = feature_set
        self._skew_us = skew_us
        # What a step took lies within the window, so that it is known when it is read again.
        self._batch_size = min(catalog.stream(TRADES).batch_size, WINDOW)
        self._closes = Closes(redis, catalog.partitions)
        self._market = self._new_market()
        self._stalled = False
        self._consumer = Consumer(
            redis,
            catalog,
            TRADES,
            self._handle,
            on_assigned=self._rebuild,
            batch_size=self._batch_size,
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
        closes: list[Close] = []
        skipped: Counter[str] = Counter()
        for batch in batches:
            for record in batch.records:
                outcome = self._take(self._market, record, placed=True)
                if isinstance(outcome, Close):
                    closes.append(outcome)
                elif isinstance(outcome, Violation):
                    metrics.BAD_TICKS.labels(outcome.reason).inc()
                    dead.append(Poison(record, outcome.reason, f"{outcome.field} {outcome.description}"))
                else:
                    skipped[outcome.name] += 1
        for reason, count in skipped.items():
            metrics.SKIPPED_TICKS.labels(reason).inc(count)
        if closes:
            await self._publish_due()
            await self._closes.keep(closes, self._market.needed_from_us)
        self._observe(read_to_the_end=all(len(batch.records) < self._batch_size for batch in batches))
        return dead

    def _take(self, market: Market, record: Record, *, placed: bool = False) -> Close | Taken | Violation:
        """Give a record to the market. `placed`: its partition must be its symbol's, or it has no place in the symbol's
        order; closes that were kept from before partitions were added are where their symbols were then.
        """
        try:
            tick = convert.parse_tick(record.payload)
        except convert.UnparsableError as error:
            return Violation("UNPARSABLE", "payload", str(error))
        if placed and self._catalog.partition_of(tick.symbol) != record.partition:
            return Violation("WRONG_PARTITION", "symbol", f"is not of partition {record.partition}")
        outcome = market.accept(tick, appended_us(record), self._skew_us, record.traceparent)
        if outcome is Taken.CLOSE and tick.event_time_us is not None:
            return Close(record, tick.event_time_us)
        return outcome

    async def _publish_due(self) -> None:
        """Close what is due and publish its features."""
        waiting: list[OutRecord] = []
        for section in self._market.close():
            waiting += self._raw_features(section)
            metrics.CROSS_SECTIONS.inc()
            if len(waiting) >= _SEND_AT_LEAST:
                await self._producer.send_many(waiting)
                waiting = []
        await self._producer.send_many(waiting)

    def _raw_features(self, section: CrossSection) -> Iterator[OutRecord]:
        for place, symbol in enumerate(self._feature_set.universe):
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
            event_id = f"{SOURCE}|{symbol}:{name}:{section.event_time_us}:0"
            raw = RawFeature(
                symbol, name, value, section.event_time_us, section.available_at_us, SOURCE, event_id=event_id
            )
            yield OutRecord(RAW, symbol, convert.raw_payload(raw), traceparent, event_id)

    def _observe(self, *, read_to_the_end: bool) -> None:
        """Show how far the market is behind; say it once when it is held up although there is nothing left to read."""
        market = self._market
        metrics.OPEN_SESSIONS.set(market.open_sessions)
        metrics.BEHIND_S.set(market.behind_us / 1e6)
        held_up_by = market.held_up_by()
        if held_up_by and read_to_the_end and not self._stalled:
            log.warning(
                "no session closes: no symbol of a partition has a close",
                symbols=held_up_by,
                open_sessions=market.open_sessions,
                behind_s=market.behind_us // 1_000_000,
            )
        self._stalled = bool(held_up_by) and (self._stalled or read_to_the_end)

    async def _rebuild(self) -> None:
        """Make the market that the closes which are kept lead to, without effects."""
        self._market = self._new_market()
        taken = [self._take(self._market, record) for record in await self._closes.load()]
        closes = [each for each in taken if isinstance(each, Close)]
        self._market.close_silently()
        self._closes.remember(closes)
        self._observe(read_to_the_end=False)
        if closes:
            log.info("market rebuilt", closes=len(closes), open_sessions=self._market.open_sessions)

    def _new_market(self) -> Market:
        return Market(self._feature_set.universe, self._feature_set.sessions.is_close, self._catalog.partition_of)
