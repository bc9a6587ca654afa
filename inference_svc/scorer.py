"""Turns `features.pit` into `signals.{strategy}`, exactly once.

Every strategy whose champion was trained on a vector's feature set scores it. All strategies that score go into the
commit with their generations, so that once a promotion or rollback has answered (it raises the fence first), no commit
of the generation before goes through, and the same vectors are scored again by the new one.

Which vectors give no signal:
- nobody deployed a model for their feature set: consumed and counted, because history from before the first promotion
  must not pile up;
- a value is missing or stale: consumed and counted;
- the vector is not what it claims, or a model cannot score it: to the dead letters, once, whatever the other
  strategies make of it.

A strategy that is deployed, but that this replica could not load yet, or not in the fenced generation, gives its
signals later: its vectors are held for it (`held`), and the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from inference_svc import metrics
from inference_svc.follower import Follower
from inference_svc.held import Holding, Releasing, stream_of
from inference_svc.registry import Registry
from inference_svc.steps import Outcome, StepScorer, faults_of, read_records, signals_of
from inference_svc.taps import Taps
from runtime.process import ended
from runtime.redis_client import Client
from streams import Catalog, Outputs, OutRecord, Processor, Record

STREAM = "features.pit"


class Scorer:
    """A member of the stream's group while `run` runs."""

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        registry: Registry,
        follower: Follower,
        batch_size: int,
        *,
        deterministic: bool = True,
        taps: Taps | None = None,
    ) -> None:
        """`deterministic`: each row in a call of its own (see `determinism`); else the rows of a step in one."""
        self._catalog = catalog
        self._scorer = StepScorer(deterministic=deterministic, taps=taps)
        self._holding = Holding(redis, catalog, registry, follower)
        self._releasing = Releasing(
            redis, catalog, registry, follower, self._holding, batch_size, deterministic=deterministic, taps=taps
        )
        self._processor = Processor(
            redis,
            catalog,
            STREAM,
            self._transform,
            on_assigned=self._holding.assigned,
            on_fenced=self._holding.fenced,
            batch_size=batch_size,
        )

    async def run(self) -> None:
        """Score until `stop` is called."""
        work = [asyncio.create_task(self._processor.run()), asyncio.create_task(self._releasing.run())]
        try:
            await asyncio.gather(*work)
        finally:
            await ended(*work)

    def stop(self) -> None:
        """Make `run` finish the steps under way and return."""
        self._processor.stop()
        self._releasing.stop()

    async def _transform(self, partition: int, records: Sequence[Record]) -> Outputs:
        readable, dead = read_records(self._catalog, partition, records)
        direct, held = await self._holding.divide(partition)
        outcomes = await self._scorer.score(direct, readable)
        outputs = Outputs(
            dead=[*dead, *faults_of(outcomes)],
            fences={strategy: serving.generation for strategy, serving in direct.items()},
        )
        for outcome in outcomes:
            outputs.records += signals_of(outcome, STREAM)
            for prediction in outcome.scored.predictions:
                metrics.SIGNALS.labels(prediction.serving.strategy).inc()
            _count_skipped(outcome, held)
            if not outcome.vector.unusable:
                outputs.records += [
                    OutRecord(
                        stream_of(strategy), outcome.vector.symbol, outcome.record.payload, outcome.record.traceparent
                    )
                    for strategy in held
                ]
        return outputs


def _count_skipped(outcome: Outcome, held: Sequence[str]) -> None:
    reason = outcome.vector.unusable if held else outcome.scored.skipped  # one that is held may have its model
    if reason:
        metrics.SKIPPED.labels(reason).inc()
