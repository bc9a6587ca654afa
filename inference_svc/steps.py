"""One step of scoring: records of a stream of vectors in, signals and dead letters out. Knows no Redis."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from opentelemetry.trace import SpanKind

from inference_svc.registry import Serving
from inference_svc.scoring import Scored, score
from inference_svc.signals import make_signal
from inference_svc.taps import Taps
from inference_svc.vectors import Vector, read_vector
from runtime import telemetry
from runtime.errors import InvalidInputError
from streams import Catalog, OutRecord, Poison, Record

_INLINE_S = 0.001
"""So much is scored on the event loop, as far as can be foreseen: a hop to a thread costs a fifth of it. More would
keep the requests waiting that the same process answers."""

_NEWEST = 0.2
"""Weight of the last step in what is foreseen."""


class Outcome(NamedTuple):
    """What became of a record that holds a vector."""

    record: Record
    vector: Vector
    scored: Scored


def read_records(
    catalog: Catalog, partition: int, records: Sequence[Record]
) -> tuple[list[tuple[Record, Vector]], list[Poison]]:
    """The vectors that are what they claim to be and where they belong; the others are for the dead letters."""
    readable: list[tuple[Record, Vector]] = []
    dead: list[Poison] = []
    for record in records:
        try:
            vector = read_vector(record.payload)
            check_partition(catalog, vector, partition)
        except InvalidInputError as error:
            dead.append(Poison(record, error.reason, error.message))
        else:
            readable.append((record, vector))
    return readable, dead


def check_partition(catalog: Catalog, vector: Vector, partition: int) -> None:
    """Raise InvalidInputError (WRONG_PARTITION) when a vector's symbol belongs elsewhere."""
    right = catalog.partition_of(vector.symbol)
    if right != partition:
        raise InvalidInputError.of_field(
            "symbol", f"{vector.symbol!r} belongs in partition {right}, not {partition}", reason="WRONG_PARTITION"
        )


class StepScorer:
    """Scores the vectors of steps with champions, on the event loop or, when it takes long, in a thread."""

    def __init__(self, *, deterministic: bool, taps: Taps | None = None) -> None:
        self._deterministic = deterministic
        self._taps = taps or Taps()
        self._seconds = math.inf

    async def score(self, servings: Mapping[str, Serving], readable: Sequence[tuple[Record, Vector]]) -> list[Outcome]:
        """Score vectors, each with every champion of its feature set."""
        vectors = [vector for _, vector in readable]
        rows = max(1, len(vectors) * len(servings))
        if rows * self._seconds <= _INLINE_S:
            scored, seconds = self._timed(servings, vectors)
        else:
            scored, seconds = await asyncio.to_thread(self._timed, servings, vectors)
        newest = seconds / rows
        self._seconds = newest if math.isinf(self._seconds) else self._seconds + _NEWEST * (newest - self._seconds)
        outcomes = [Outcome(record, vector, each) for (record, vector), each in zip(readable, scored, strict=True)]
        if self._taps.vectors is not None:
            self._taps.vectors(outcomes, newest)
        return outcomes

    def _timed(self, servings: Mapping[str, Serving], vectors: Sequence[Vector]) -> tuple[list[Scored], float]:
        # The thread's own time: by the clock, one that shares the interpreter with the event loop seems slow, and stays
        # a thread for ever.
        started = time.thread_time()
        scored = score(servings, vectors, deterministic=self._deterministic)
        return scored, time.thread_time() - started


def faults_of(outcomes: Sequence[Outcome]) -> list[Poison]:
    """Dead letters of the vectors that a model could not score."""
    return [
        Poison(record, scored.fault.reason, scored.fault.message)
        for record, _, scored in outcomes
        if scored.fault is not None
    ]


def signals_of(outcome: Outcome, stream: str) -> list[OutRecord]:
    """The signals of one vector, in a span that continues its trace; without a trace there is none to continue."""
    record, vector, scored = outcome
    if not scored.predictions:
        return []
    traceparent = record.traceparent
    if traceparent:
        with telemetry.span(f"score {stream}", traceparent, SpanKind.CONSUMER, symbol=vector.symbol):
            traceparent = telemetry.current_traceparent()
    trace_id = telemetry.trace_id_of(traceparent)
    return [
        OutRecord(
            f"signals.{prediction.serving.strategy}",
            vector.symbol,
            make_signal(vector, prediction, trace_id).SerializeToString(),
            traceparent,
        )
        for prediction in scored.predictions
    ]
