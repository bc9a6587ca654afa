"""Why a vector has no signal of a strategy: worked out again, since a signal that is not there has no receipt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference_svc.engine import predict_rows
from inference_svc.registry import LoadedModel
from inference_svc.replay import report as kinds
from inference_svc.replay.instants import show
from inference_svc.replay.report import Case
from inference_svc.replay.task import Task
from inference_svc.scoring import takes
from inference_svc.vectors import Vector
from streams import Record
from streams.operations.snapshot import milliseconds, order


@dataclass(frozen=True, slots=True)
class Place:
    """What was known of a partition before its signals were read."""

    partition: int
    committed: str
    """How far the scorers were in the vectors."""
    oldest_signal: dict[str, str]
    """By strategy whose signals retention has taken some of: the oldest that is left."""


class Absence:
    """Counts the vectors of one partition that have no signal, by why, and names those whose signal is lost."""

    def __init__(self, task: Task, place: Place) -> None:
        self._task = task
        self._place = place
        self._last: dict[str, tuple[int, LoadedModel]] = {}

    def seen(self, strategy: str, generation: int, loaded: LoadedModel) -> None:
        """Note what made the strategy's signal of the vector before."""
        self._last[strategy] = generation, loaded
        self._task.sets.setdefault(strategy, set()).add(loaded.manifest.feature_set)

    async def count(self, strategy: str, record: Record, vector: Vector, *, held: bool) -> None:
        """Count a vector without a signal, if it is of a feature set of the strategy's."""
        if vector.feature_set not in self._task.sets.get(strategy, ()):
            return
        reason = vector.unusable or (kinds.HELD if held else await self._why(strategy, record, vector))
        self._task.report.of(strategy).without_signal[reason] += 1
        if reason == kinds.LOST:
            at, as_of = self._place.partition, show(vector.as_of_us)
            detail = "its model scores it, and there is no signal"
            self._task.report.name(Case(reason, strategy, at, record.entry_id, vector.symbol, as_of, detail))

    async def _why(self, strategy: str, record: Record, vector: Vector) -> str:
        if order(record.entry_id) > order(self._place.committed):
            return kinds.WAITING
        oldest = self._place.oldest_signal.get(strategy, "")
        if oldest and order(record.entry_id) < order(oldest):
            return kinds.SIGNAL_TRIMMED
        generation, last = self._last.get(strategy, (0, None))
        if last is None:
            since_us = self._task.history.expected_since_us(strategy)
            if since_us is None or milliseconds(record.entry_id) * 1000 < since_us:
                return kinds.NO_MODEL
        # Scored by the model of the signal before, or by one that came after it: the first that cannot is the reason.
        models = [
            last,
            *[await self._task.models.find(each) for each in self._task.history.after(strategy, generation)],
        ]
        faults = (_fault(loaded, vector) for loaded in models if loaded is not None)
        return next(filter(None, faults), kinds.LOST)


def _fault(loaded: LoadedModel, vector: Vector) -> str:
    """Why a model gives no prediction for a vector whose values are usable; empty when it gives one."""
    if vector.feature_set != loaded.manifest.feature_set:
        return kinds.NO_MODEL
    if not takes(loaded, vector):
        return "FEATURE_COUNT_MISMATCH"
    fault = predict_rows(loaded, np.array([vector.values], dtype=np.float64), deterministic=True).faults.get(0)
    return fault.reason if fault is not None else ""
