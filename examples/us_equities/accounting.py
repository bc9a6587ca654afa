"""The books of a replay: what each stage's stream holds, held against what it must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.us_equities.panel import Panel
from examples.us_equities.replay import RAW, SIGNALS, TICKS, VECTORS, Expected
from quantmesh.streams.v1 import feature_pb2, market_data_pb2, signal_pb2
from runtime.redis_client import Client
from runtime.times import to_us
from streams import Catalog, keys

_PAGE = 2000
_DIRECTIONS = {signal_pb2.DIRECTION_LONG: 1, signal_pb2.DIRECTION_SHORT: -1, signal_pb2.DIRECTION_FLAT: 0}


@dataclass(frozen=True, slots=True)
class StageBooks:
    """One stage. Latency is from the stage before having all it needs to this stage's record, milliseconds."""

    stream: str
    expected: int
    records: int
    distinct: int
    latencies_ms: NDArray[np.float64]

    @property
    def lost(self) -> int:
        """Records that should be there and are not."""
        return self.expected - self.distinct

    @property
    def duplicated(self) -> int:
        """Records that are there more than once."""
        return self.records - self.distinct

    def percentile_ms(self, q: float) -> float | None:
        """A percentile of the latency; None for the first stage."""
        return float(np.percentile(self.latencies_ms, q)) if self.latencies_ms.size else None


@dataclass(frozen=True, slots=True)
class Books:
    """All stages, and what the records prove."""

    stages: list[StageBooks]
    end_to_end_ms: NDArray[np.float64]
    """From a session's last tick to each signal of it."""
    directions: NDArray[np.int8]
    """[sessions, symbols]: 1 LONG, -1 SHORT, 0 FLAT or no signal."""
    look_ahead: int
    """Vectors that used a value from after their `as_of`. Must be 0."""
    equal_to_bulk: int
    """Complete vectors whose values are those computed in bulk, bit for bit."""
    complete: int
    """Complete vectors."""
    unreceipted: int
    """Signals whose receipt names no vector of the stream. Must be 0."""

    @property
    def balanced(self) -> bool:
        """True when nothing was lost, duplicated, seen too early, or left without evidence."""
        whole = all(stage.lost == 0 and stage.duplicated == 0 for stage in self.stages)
        return whole and self.look_ahead == 0 and self.unreceipted == 0 and self.equal_to_bulk == self.complete


@dataclass(slots=True)
class _Stage:
    """What was read of one stream."""

    seen: Counter[tuple[object, ...]] = field(default_factory=Counter)
    at_ms: dict[tuple[str, int], int] = field(default_factory=dict)
    """Arrival of the last record of each (symbol, session)."""

    def add(self, identity: tuple[object, ...], symbol: str, event_time_us: int, at_ms: int) -> None:
        self.seen[identity] += 1
        self.at_ms[symbol, event_time_us] = max(at_ms, self.at_ms.get((symbol, event_time_us), 0))


async def _entries(redis: Client, catalog: Catalog, stream: str) -> AsyncIterator[tuple[int, bytes]]:
    """(arrival in milliseconds, payload) of every entry."""
    for partition in range(catalog.partitions):
        start = "-"
        while True:
            page: Any = await redis.xrange(keys.entries(stream, partition), min=start, count=_PAGE)
            if not page:
                break
            for entry_id, fields in page:
                yield int(entry_id.partition(b"-")[0]), fields[keys.PAYLOAD]
            start = f"({page[-1][0].decode()}"


async def read_books(
    redis: Client, catalog: Catalog, panel: Panel, features: NDArray[np.float64], expected: Expected
) -> Books:
    """Read the four streams and draw up the books. `features` are those computed in bulk, [sessions, symbols, F]."""
    stages = {stream: _Stage() for stream in (TICKS, RAW, VECTORS, SIGNALS)}
    place = {int(t): n for n, t in enumerate(panel.event_times_us)}
    column = {symbol: n for n, symbol in enumerate(panel.symbols)}
    directions = np.zeros((len(panel.days), len(panel.symbols)), dtype=np.int8)
    look_ahead = equal = complete = unreceipted = 0
    hashes: set[bytes] = set()

    async for at_ms, payload in _entries(redis, catalog, TICKS):
        tick = market_data_pb2.TradeTick.FromString(payload)
        when = to_us(tick.event_time)
        stages[TICKS].add((tick.symbol, when), tick.symbol, when, at_ms)
    async for at_ms, payload in _entries(redis, catalog, RAW):
        raw = feature_pb2.RawFeature.FromString(payload)
        when = to_us(raw.event_time)
        stages[RAW].add((raw.symbol, raw.name, when, raw.print_number), raw.symbol, when, at_ms)
    async for at_ms, payload in _entries(redis, catalog, VECTORS):
        vector = feature_pb2.FeatureVector.FromString(payload)
        when = to_us(vector.event_time)
        stages[VECTORS].add((vector.symbol, when), vector.symbol, when, at_ms)
        hashes.add(vector.vector_hash)
        as_of = to_us(vector.as_of)
        look_ahead += max(vector.value_available_at_us) > as_of or to_us(vector.max_available_at) > as_of
        if all(status == feature_pb2.FEATURE_STATUS_OK for status in vector.statuses):
            complete += 1
            equal += np.array(vector.values).tobytes() == features[place[when], column[vector.symbol]].tobytes()
    async for at_ms, payload in _entries(redis, catalog, SIGNALS):
        signal = signal_pb2.Signal.FromString(payload)
        when = to_us(signal.event_time)
        stages[SIGNALS].add((signal.symbol, when), signal.symbol, when, at_ms)
        directions[place[when], column[signal.symbol]] = _DIRECTIONS[signal.direction]
        receipt = signal.receipt
        unreceipted += receipt.vector_hash not in hashes or not receipt.model_digest or not receipt.trace_id

    scored = list(stages[SIGNALS].at_ms)
    session_at_ms: dict[int, int] = {}
    for (_, when), at_ms in stages[TICKS].at_ms.items():
        session_at_ms[when] = max(at_ms, session_at_ms.get(when, 0))
    begins = {
        RAW: lambda symbol, when: session_at_ms[when],
        VECTORS: lambda symbol, when: stages[RAW].at_ms[symbol, when],
        SIGNALS: lambda symbol, when: stages[VECTORS].at_ms[symbol, when],
    }
    books = []
    for stream, stage in stages.items():
        begin = begins.get(stream)
        latencies = [stage.at_ms[key] - begin(*key) for key in scored] if begin else []
        books.append(
            StageBooks(
                stream=stream,
                expected=expected.counts[stream],
                records=stage.seen.total(),
                distinct=len(stage.seen),
                latencies_ms=np.array(latencies, dtype=np.float64),
            )
        )
    end_to_end = [stages[SIGNALS].at_ms[key] - session_at_ms[key[1]] for key in scored]
    return Books(
        stages=books,
        end_to_end_ms=np.array(end_to_end, dtype=np.float64),
        directions=directions,
        look_ahead=look_ahead,
        equal_to_bulk=equal,
        complete=complete,
        unreceipted=unreceipted,
    )
