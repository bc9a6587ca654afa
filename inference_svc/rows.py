"""Rows through a model: what it gives for each, and why it gives nothing for some."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inference_svc.determinism import ALONE, Call, predict_alone
from inference_svc.registry import LoadedModel
from runtime.errors import FailedPreconditionError

_MAX_ERROR_CHARS = 300
"""Of what the runtime says of a model that failed: an error travels in a gRPC trailer."""


class Rows(NamedTuple):
    """What a model gave for rows."""

    values: NDArray[np.float64]
    """Shape [N]; what stands at a row that has a fault is no prediction."""
    faults: dict[int, FailedPreconditionError]
    """By row, of each that has no finite prediction: MODEL_FAILED, NON_FINITE_PREDICTION."""
    calls: list[Call]
    """Which call each row was in."""


def predict_rows(loaded: LoadedModel, matrix: NDArray[np.float64], *, deterministic: bool) -> Rows:
    """Score rows, at least one: each in a call of its own, or all in one.

    A model may fail as a whole over one row (an index that its table does not have): then each row is scored alone.
    """
    count = len(matrix)
    faults: dict[int, FailedPreconditionError] = {}
    calls = [ALONE] * count
    try:
        if deterministic:
            values = predict_alone(loaded.model, matrix)
        else:
            values = loaded.model.predict(matrix)
            calls = [Call(count, row) for row in range(count)]
    except Exception:  # what a runtime raises shares no base but this
        values = np.full(count, np.nan)
        for row in range(count):
            try:
                values[row] = loaded.model.predict(matrix[row : row + 1])[0]
            except Exception as error:
                faults[row] = model_failed(loaded, error, row)
    for row in map(int, np.flatnonzero(~np.isfinite(values))):
        faults.setdefault(row, non_finite_prediction(loaded, float(values[row]), row))
    return Rows(values, faults, calls)


def model_failed(loaded: LoadedModel, error: Exception, row: int) -> FailedPreconditionError:
    """The error of a model that raised."""
    return FailedPreconditionError(
        f"model {loaded.manifest.name!r} ({loaded.version[:12]}) failed on row {row}: {error}"[:_MAX_ERROR_CHARS],
        reason="MODEL_FAILED",
        metadata={"model_version": loaded.version, "row": str(row)},
    )


def non_finite_prediction(loaded: LoadedModel, value: float, row: int) -> FailedPreconditionError:
    """The error of a model that gave NaN or infinity: no caller gets such a number to trade on."""
    return FailedPreconditionError(
        f"model {loaded.manifest.name!r} ({loaded.version[:12]}) gave {value} for row {row}: the features are outside "
        "of what it can score, or the model is faulty",
        reason="NON_FINITE_PREDICTION",
        metadata={"model_version": loaded.version, "row": str(row)},
    )
