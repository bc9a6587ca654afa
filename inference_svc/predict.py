"""Predict and BatchPredict as a use case: check what came, score it, check what comes out.

Knows neither protobuf nor gRPC. One row takes the short way: no list of faults is made until there is a fault.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from inference_svc.registry import LoadedModel, Registry, Target
from inference_svc.rows import model_failed, non_finite_prediction, predict_rows
from runtime.errors import InvalidInputError, ResourceExhaustedError
from runtime.validation import MAX_REQUEST_ID_CHARS, Violations

INLINE_ROWS = 64
"""Up to so many rows are scored on the event loop: a hop to a thread costs more than the call."""

MAX_LABELS = 32
MAX_LABEL_CHARS = 256


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of rows, all by one model."""

    target: Target
    values: NDArray[np.float64]


def check_call(request_id: str, metadata: Mapping[str, str] | None = None) -> None:
    """Check what a call carries beside its rows. Raises InvalidInputError with every fault."""
    if len(request_id) <= MAX_REQUEST_ID_CHARS and not metadata:
        return
    violations = Violations()
    violations.text("request_id", request_id, max_chars=MAX_REQUEST_ID_CHARS)
    labels = metadata or {}
    if len(labels) > MAX_LABELS:
        violations.add("metadata", f"has {len(labels)} entries; at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if len(key) > MAX_LABEL_CHARS:
            violations.add("metadata", f"has a key of {len(key)} characters; at most {MAX_LABEL_CHARS} are allowed")
        violations.text(f"metadata[{key[:MAX_LABEL_CHARS]}]", value, max_chars=MAX_LABEL_CHARS)
    violations.raise_if_any()


def predict_one(target: Target, features: Sequence[float]) -> float:
    """Score one row.

    Raises InvalidInputError (FEATURE_COUNT_MISMATCH, NON_FINITE_FEATURE), FailedPreconditionError
    (NON_FINITE_PREDICTION, MODEL_FAILED).
    """
    columns = target.loaded.model.columns
    if len(features) != columns:
        raise _wrong_count("features", len(features), target.loaded)
    row = np.fromiter(features, np.float64, columns)
    if not np.isfinite(row).all():
        _raise_non_finite(row.reshape(1, -1), "features")
    try:
        prediction = float(target.loaded.model.predict(row.reshape(1, -1))[0])
    except Exception as error:
        raise model_failed(target.loaded, error, 0) from error
    if not math.isfinite(prediction):
        raise non_finite_prediction(target.loaded, prediction, 0)
    return prediction


class Predictor:
    """Scores calls with what the registry serves at the moment they arrive."""

    def __init__(self, registry: Registry, max_batch_rows: int) -> None:
        self._registry = registry
        self._max_batch_rows = max_batch_rows

    def resolve(self, name: str) -> Target:
        """The model that a call is scored by; see `Snapshot.resolve`."""
        return self._registry.current.resolve(name)

    async def batch(self, target: Target, rows: Sequence[Sequence[float]]) -> Predictions:
        """Score rows with one version, in one call of the model.

        Raises what `predict_one` raises, InvalidInputError for an empty batch, ResourceExhaustedError
        (BATCH_TOO_LARGE) for one over the limit.
        """
        if not rows:
            raise InvalidInputError.of_field("batch", "needs at least one row")
        if len(rows) > self._max_batch_rows:
            raise ResourceExhaustedError(
                f"batch has {len(rows)} rows; at most {self._max_batch_rows} are allowed: send it in parts",
                reason="BATCH_TOO_LARGE",
                field="batch",
                metadata={"rows": str(len(rows)), "limit": str(self._max_batch_rows)},
            )
        if len(rows) <= INLINE_ROWS:
            return score_rows(target, rows)
        return await asyncio.to_thread(score_rows, target, rows)


def score_rows(target: Target, rows: Sequence[Sequence[float]]) -> Predictions:
    """Check and score rows; see `Predictor.batch`."""
    loaded = target.loaded
    columns = loaded.model.columns
    for index, row in enumerate(rows):
        if len(row) != columns:
            raise _wrong_count(f"batch[{index}].features", len(row), loaded)
    flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * columns)
    matrix = flat.reshape(len(rows), columns)
    if not np.isfinite(flat).all():
        _raise_non_finite(matrix, None)
    scored = predict_rows(loaded, matrix, deterministic=False)
    if scored.faults:
        raise scored.faults[min(scored.faults)]
    return Predictions(target, scored.values)


def _wrong_count(field: str, got: int, loaded: LoadedModel) -> InvalidInputError:
    names = loaded.manifest.feature_names
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return InvalidInputError.of_field(
        field,
        f"has {got} features; model {loaded.manifest.name!r} takes {loaded.model.columns} ({listed})",
        reason="FEATURE_COUNT_MISMATCH",
    )


def _raise_non_finite(matrix: NDArray[np.float64], field: str | None) -> None:
    violations = Violations()
    for row, column in np.argwhere(~np.isfinite(matrix)):
        path = f"{field or f'batch[{row}].features'}[{column}]"
        violations.add(path, f"is {matrix[row, column]}; must be a finite number")
    violations.raise_if_any(reason="NON_FINITE_FEATURE")
