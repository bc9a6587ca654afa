"""The pipeline from `features.raw` to `features.pit`: reads, keeps the state of each symbol, writes vectors.

Vectors, state, dead letters and offset are one commit, so a crash anywhere neither loses nor repeats a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feature_svc import convert, metrics
from feature_svc.assembler import Assembler
from feature_svc.entry_clock import appended_us
from feature_svc.feature_sets import FeatureSets
from feature_svc.pit import Violation, check_print
from feature_svc.symbol_state import STATE, SymbolState
from feature_svc.vector import FeatureVector
from runtime import telemetry
from runtime.redis_client import Client
from streams import Catalog, Outputs, OutRecord, Poison, Processor, Record, keys
from streams.leases import LEASE_MS

RAW = "features.raw"
PIT = "features.pit"


class PitPipeline:
    """Runs the point-in-time rules over the partitions that this process owns."""

    def __init__(
        self, redis: Client, catalog: Catalog, sets: FeatureSets, *, skew_us: int, lease_ms: int = LEASE_MS
    ) -> None:
        self._redis = redis
        self._catalog = catalog
        self._known_symbols = sets.symbols
        self._known_names = sets.feature_names
        self._skew_us = skew_us
        self._assembler = Assembler(tuple(sets))
        self._states: dict[int, dict[str, SymbolState]] = {}
        self._traceparents: dict[str, str] = {}  # of each symbol's last print; a restart loses a trace, no data
        self._processor = Processor(redis, catalog, RAW, self._transform, on_assigned=self._load, lease_ms=lease_ms)

    async def run(self) -> None:
        """Process until `stop` is called."""
        await self._processor.run()

    def stop(self) -> None:
        """Make `run` finish the steps under way and return."""
        self._processor.stop()

    async def _load(self, partition: int) -> None:
        stored: Any = await self._redis.hgetall(keys.state(STATE, partition))
        self._states[partition] = {symbol.decode(): SymbolState.decode(data) for symbol, data in stored.items()}

    async def _transform(self, partition: int, records: Sequence[Record]) -> Outputs:
        states = self._states[partition]
        outputs = Outputs()
        changed: dict[str, SymbolState] = {}
        late = repeated = 0
        for record in records:
            try:
                raw = convert.parse_raw(record.payload)
            except convert.UnparsableError as error:
                self._refuse(outputs, record, Violation("UNPARSABLE", "payload", str(error)))
                continue
            violation = check_print(raw, self._known_symbols, self._known_names, appended_us(record), self._skew_us)
            if violation is not None:
                self._refuse(outputs, record, violation)
                continue
            symbol = raw.symbol
            if self._catalog.partition_of(symbol) != partition:
                self._refuse(
                    outputs, record, Violation("WRONG_PARTITION", "symbol", f"is not of partition {partition}")
                )
                continue
            state = states.get(symbol)
            if state is None:
                state = states[symbol] = SymbolState()
            accepted = self._assembler.accept(state, raw)
            if isinstance(accepted, Violation):
                self._refuse(outputs, record, accepted)
                continue
            if accepted.repeated:
                repeated += 1
                continue
            changed[symbol] = state
            late += accepted.late
            for vector in accepted.before:
                outputs.records.append(self._out(vector, self._traceparents.get(symbol, "")))
            for vector in accepted.completed:
                outputs.records.append(self._out(vector, record.traceparent))
            self._traceparents[symbol] = record.traceparent
        outputs.state = {STATE: {symbol: state.encode() for symbol, state in changed.items()}}
        metrics.LATE.inc(late)
        metrics.REPEATED.inc(repeated)
        return outputs

    @staticmethod
    def _refuse(outputs: Outputs, record: Record, violation: Violation) -> None:
        outputs.dead.append(Poison(record, violation.reason, f"{violation.field} {violation.description}"))
        metrics.VIOLATIONS.labels(violation.reason).inc()

    @staticmethod
    def _out(vector: FeatureVector, traceparent: str) -> OutRecord:
        metrics.VECTORS.labels(vector.feature_set, max(vector.statuses).name).inc()
        if not traceparent:
            return OutRecord(PIT, vector.symbol, convert.vector_message(vector).SerializeToString())
        with telemetry.span("feature vector", traceparent, symbol=vector.symbol) as span:
            payload = convert.vector_message(vector).SerializeToString()
            return OutRecord(PIT, vector.symbol, payload, telemetry.format_traceparent(span.get_span_context()))
