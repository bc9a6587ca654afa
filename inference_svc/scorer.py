"""Turns `features.pit` into `signals.{strategy}`, exactly once.

Every strategy whose champion was trained on a vector's feature set scores it. All strategies of the snapshot go into
the commit with their generations, so that once a promotion or rollback has answered (it raises the fence first), no
commit of the generation before goes through, and the same vectors are scored again by the new one.

Which vectors give no signal:
- nobody deployed a model for their feature set: consumed and counted, because history from before the first promotion
  must not pile up;
- a value is missing or stale: consumed and counted;
- a strategy is deployed, but this replica could not load it yet, or not the fenced generation: nothing is consumed
  until it can (another replica may, or an operator rolls back): late signals rather than lost ones;
- the vector is not what it claims, or a model cannot score it: to the dead letters, once, whatever the other
  strategies make of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from opentelemetry.trace import SpanKind

from inference_svc import metrics
from inference_svc.follower import Follower
from inference_svc.registry import Registry
from inference_svc.scoring import INLINE_ROWS, Scored, score
from inference_svc.signals import make_signal
from inference_svc.vectors import Vector, read_vector
from runtime import telemetry
from runtime.errors import InvalidInputError
from runtime.redis_client import Client
from streams import Catalog, Outputs, OutRecord, Poison, Processor, Record

STREAM = "features.pit"

_WAIT_S = 1.0
"""How long a step waits for a model; then the processor looks whether it still owns the partition."""


class Scorer:
    """A member of the stream's group while `run` runs."""

    def __init__(
        self, redis: Client, catalog: Catalog, registry: Registry, follower: Follower, batch_size: int
    ) -> None:
        self._catalog = catalog
        self._registry = registry
        self._follower = follower
        self._processor = Processor(
            redis, catalog, STREAM, self._transform, on_fenced=self._on_fenced, batch_size=batch_size
        )

    async def run(self) -> None:
        """Score until `stop` is called."""
        await self._processor.run()

    def stop(self) -> None:
        """Make `run` finish the steps under way and return."""
        self._processor.stop()

    async def _on_fenced(self, strategy: str, generation: int) -> None:
        await self._follower.wait_for_generation(strategy, generation, _WAIT_S)

    async def _transform(self, partition: int, records: Sequence[Record]) -> Outputs:
        for strategy, generation in self._follower.unserved().items():
            await self._follower.wait_for_generation(strategy, generation, _WAIT_S)
        servings = self._registry.current.servings
        outputs = Outputs(fences={serving.strategy: serving.generation for serving in servings.values()})
        readable: list[tuple[Record, Vector]] = []
        for record in records:
            try:
                readable.append((record, self._read(partition, record)))
            except InvalidInputError as error:
                outputs.dead.append(Poison(record, error.reason, error.message))
        vectors = [vector for _, vector in readable]
        if len(vectors) <= INLINE_ROWS:
            scored = score(servings, vectors)
        else:
            scored = await asyncio.to_thread(score, servings, vectors)
        for (record, vector), result in zip(readable, scored, strict=True):
            if result.fault is not None:
                outputs.dead.append(Poison(record, result.fault.reason, result.fault.message))
            if result.skipped:
                metrics.SKIPPED.labels(result.skipped).inc()
            outputs.records += _signals(record, vector, result)
        return outputs

    def _read(self, partition: int, record: Record) -> Vector:
        vector = read_vector(record.payload)
        if self._catalog.partition_of(vector.symbol) != partition:
            raise InvalidInputError.of_field(
                "symbol",
                f"{vector.symbol!r} belongs in partition {self._catalog.partition_of(vector.symbol)}, not {partition}",
                reason="WRONG_PARTITION",
            )
        return vector


def _signals(record: Record, vector: Vector, scored: Scored) -> list[OutRecord]:
    """The signals of one vector, in a span that continues its trace; without a trace there is none to continue."""
    if not scored.predictions:
        return []
    traceparent = record.traceparent
    if traceparent:
        with telemetry.span(f"score {STREAM}", traceparent, SpanKind.CONSUMER, symbol=vector.symbol):
            traceparent = telemetry.current_traceparent()
    trace_id = telemetry.trace_id_of(traceparent)
    made = []
    for serving, prediction in scored.predictions:
        payload = make_signal(serving, vector, prediction, trace_id).SerializeToString()
        made.append(OutRecord(f"signals.{serving.strategy}", vector.symbol, payload, traceparent))
        metrics.SIGNALS.labels(serving.strategy).inc()
    return made
