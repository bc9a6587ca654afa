"""Scores vectors with every strategy they are for. Pure: knows neither streams nor protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from inference_svc.determinism import Call
from inference_svc.engine import predict_rows
from inference_svc.registry import LoadedModel, Serving
from inference_svc.vectors import Vector
from runtime.errors import InvalidInputError, QuantmeshError


class Prediction(NamedTuple):
    """What one strategy makes of a vector, and by which call of its champion."""

    serving: Serving
    value: float
    call: Call


@dataclass(slots=True)
class Scored:
    """What became of one vector. Several strategies score it, each for itself: one that cannot leaves a fault, and
    the predictions of the others stand."""

    predictions: list[Prediction] = field(default_factory=list)
    fault: QuantmeshError | None = None
    """The first strategy's that could not."""
    skipped: str = ""
    """Why there is no prediction without anybody's fault; see metrics.SKIPPED."""


def score(servings: Mapping[str, Serving], vectors: Sequence[Vector], *, deterministic: bool) -> list[Scored]:
    """Score vectors with each strategy's champion: each row in a call of its own, or all rows that it takes in one.

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
        _score_one(serving, vectors, by_set.get(feature_set, []), results, deterministic)
    for vector, result in zip(vectors, results, strict=True):
        if vector.feature_set not in served:
            result.skipped = "no_model"
        elif vector.unusable:
            result.skipped = vector.unusable
    return results


def takes(loaded: LoadedModel, vector: Vector) -> bool:
    """Whether a vector gives a row of a model's calls: its feature set, its length, and every value usable."""
    return (
        vector.feature_set == loaded.manifest.feature_set
        and len(vector.values) == loaded.model.columns
        and not vector.unusable
    )


def wrong_length(strategy: str, loaded: LoadedModel, vector: Vector) -> InvalidInputError:
    """The fault of a vector that has another number of values than a model takes."""
    return InvalidInputError.of_field(
        "values",
        f"has {len(vector.values)} features; the champion of {strategy} takes {loaded.model.columns}",
        reason="FEATURE_COUNT_MISMATCH",
    )


def _score_one(
    serving: Serving,
    vectors: Sequence[Vector],
    indices: Sequence[int],
    results: list[Scored],
    deterministic: bool,
) -> None:
    champion = serving.champion
    rows: list[int] = []
    for index in indices:
        vector = vectors[index]
        if takes(champion, vector):
            rows.append(index)
        elif len(vector.values) != champion.model.columns:
            results[index].fault = results[index].fault or wrong_length(serving.strategy, champion, vector)
    if not rows:
        return
    matrix = np.array([vectors[index].values for index in rows], dtype=np.float64)
    values, faults, calls = predict_rows(champion, matrix, deterministic=deterministic)
    for row, (index, value) in enumerate(zip(rows, values.tolist(), strict=True)):
        fault = faults.get(row)
        if fault is None:
            results[index].predictions.append(Prediction(serving, value, calls[row]))
        else:
            results[index].fault = results[index].fault or fault
