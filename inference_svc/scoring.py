"""Scores vectors with every strategy they are for. Pure: knows neither streams nor protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from inference_svc.engine import run
from inference_svc.registry import Serving
from inference_svc.vectors import Vector
from runtime.errors import InvalidInputError, QuantmeshError

INLINE_ROWS = 64
"""Up to so many rows are scored on the event loop: a hop to a thread costs more than the call."""


@dataclass(slots=True)
class Scored:
    """What became of one vector. Several strategies score it, each for itself: one that cannot leaves a fault, and
    the predictions of the others stand."""

    predictions: list[tuple[Serving, float]] = field(default_factory=list)
    fault: QuantmeshError | None = None
    """The first strategy's that could not."""
    skipped: str = ""
    """Why there is no prediction without anybody's fault; see metrics.SKIPPED."""


def score(servings: Mapping[str, Serving], vectors: Sequence[Vector]) -> list[Scored]:
    """Score vectors: one call of each strategy's champion for all rows that it takes.

    A vector carries its values in its feature set's order, which is the order of `manifest.feature_names` of a model
    trained on the set; a vector of another length was made by another edition of the set, and is not scored.
    """
    results = [Scored() for _ in vectors]
    by_set: dict[str, list[int]] = {}
    for index, vector in enumerate(vectors):
        by_set.setdefault(vector.feature_set, []).append(index)
    served: set[str] = set()
    for serving in servings.values():
        feature_set = serving.champion.manifest.feature_set
        served.add(feature_set)
        _score_one(serving, vectors, by_set.get(feature_set, []), results)
    for vector, result in zip(vectors, results, strict=True):
        if vector.feature_set not in served:
            result.skipped = "no_model"
        elif vector.unusable:
            result.skipped = vector.unusable
    return results


def _score_one(serving: Serving, vectors: Sequence[Vector], indices: Sequence[int], results: list[Scored]) -> None:
    model = serving.champion.model
    rows: list[int] = []
    for index in indices:
        vector = vectors[index]
        if len(vector.values) != model.columns:
            results[index].fault = results[index].fault or InvalidInputError.of_field(
                "values",
                f"has {len(vector.values)} features; the champion of {serving.strategy} takes {model.columns}",
                reason="FEATURE_COUNT_MISMATCH",
            )
        elif not vector.unusable:
            rows.append(index)
    if not rows:
        return
    values, faults = run(serving.champion, np.array([vectors[index].values for index in rows], dtype=np.float64))
    for row, (index, prediction) in enumerate(zip(rows, values.tolist(), strict=True)):
        fault = faults.get(row)
        if fault is None:
            results[index].predictions.append((serving, prediction))
        else:
            results[index].fault = results[index].fault or fault.error(serving.champion, row)
