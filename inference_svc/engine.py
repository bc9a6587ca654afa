"""Runs a call of a model: rows in, a prediction or a fault for each row out. Knows no request and no event loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference_svc.determinism import ALONE, Call, predict_alone
from inference_svc.registry import LoadedModel
from runtime.errors import FailedPreconditionError

Matrix: TypeAlias = NDArray[np.float64]

_MAX_ERROR_CHARS = 300
"""Of what the runtime says of a model that failed: an error travels in a gRPC trailer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row has no prediction: MODEL_FAILED or NON_FINITE_PREDICTION, and what the runtime said or gave."""

    reason: str
    said: str

    def error(self, loaded: LoadedModel, row: int) -> FailedPreconditionError:
        """The error that a caller gets; `row` is the row's index in the caller's request."""
        model = f"model {loaded.manifest.name!r} ({loaded.version[:12]})"
        if self.reason == "MODEL_FAILED":
            text = f"{model} failed on row {row}: {self.said}"[:_MAX_ERROR_CHARS]
        else:
            text = (
                f"{model} gave {self.said} for row {row}: the features are outside of what it can score, or the model "
                "is faulty"
            )
        metadata = {"model_version": loaded.version, "row": str(row)}
        return FailedPreconditionError(text, reason=self.reason, metadata=metadata)


Faults: TypeAlias = Mapping[int, Fault]


def run(loaded: LoadedModel, rows: Matrix, *, deterministic: bool = False) -> tuple[Matrix, Faults]:
    """Predictions of rows [n, columns], shape [n], and by row the fault of each that has none that is finite.

    A model may fail as a whole over one row (an index that its table does not have): then each row is scored alone.
    `deterministic` scores each row in a call of its own, whatever came with it: see `determinism`.
    """
    values, faults, _ = _run(loaded, rows, deterministic)
    return values, faults


class Rows(NamedTuple):
    """What a model gave for rows."""

    values: Matrix
    """Shape [N]; what stands at a row that has a fault is no prediction."""
    faults: dict[int, FailedPreconditionError]
    """By row, of each that has no finite prediction: MODEL_FAILED, NON_FINITE_PREDICTION."""
    calls: list[Call]
    """Which call each row was in."""


def predict_rows(loaded: LoadedModel, matrix: Matrix, *, deterministic: bool) -> Rows:
    """As `run`, with the errors of the faults, and the call that each row was in."""
    values, faults, together = _run(loaded, matrix, deterministic)
    calls = [Call(len(matrix), row) for row in range(len(matrix))] if together else [ALONE] * len(matrix)
    return Rows(values, {row: fault.error(loaded, row) for row, fault in faults.items()}, calls)


def _run(loaded: LoadedModel, rows: Matrix, deterministic: bool) -> tuple[Matrix, dict[int, Fault], bool]:
    """Values and faults, and whether the rows were in one call."""
    faults: dict[int, Fault] = {}
    together = not deterministic
    try:
        values = loaded.model.predict(rows) if together else predict_alone(loaded.model, rows)
    except Exception:  # what a runtime raises shares no base but this
        together = False
        values = np.full(len(rows), np.nan)
        for row in range(len(rows)):
            try:
                values[row] = loaded.model.predict(rows[row : row + 1])[0]
            except Exception as error:
                faults[row] = Fault("MODEL_FAILED", str(error))
    if not np.isfinite(values).all():
        for row in map(int, np.flatnonzero(~np.isfinite(values))):
            faults.setdefault(row, Fault("NON_FINITE_PREDICTION", str(float(values[row]))))
    return values, faults, together
