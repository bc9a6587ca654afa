"""Rows of features as they come in: packed bytes or numbers, to one matrix of float64. Knows no protobuf."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference_svc.registry import LoadedModel
from runtime.errors import InvalidInputError
from runtime.validation import Violations

Matrix: TypeAlias = NDArray[np.float64]
Path: TypeAlias = Callable[[int, int], str]
"""Names the field of a value by its row and column, such as `batch[3].features[7]`."""

_NAMED_AT_MOST = 100
"""Values at fault that are looked at: the first ones are told, and no caller can make the service name a million."""

Floats: TypeAlias = np.dtype[np.float32] | np.dtype[np.float64]

FLOAT32 = np.dtype("<f4")
FLOAT64 = np.dtype("<f8")


def one(values: Iterable[float], count: int, loaded: LoadedModel, field: str) -> Matrix:
    """One row of numbers, as a matrix [1, columns]. Raises InvalidInputError (FEATURE_COUNT_MISMATCH)."""
    if count != loaded.model.columns:
        raise wrong_count(field, count, loaded)
    return np.fromiter(values, np.float64, count).reshape(1, count)


def packed(data: bytes, dtype: Floats, rows: int, loaded: LoadedModel) -> Matrix:
    """Rows as packed bytes, a matrix [rows, columns], without a copy where they are float64.

    Raises InvalidInputError: FEATURE_COUNT_MISMATCH when the bytes are not those of so many rows.
    """
    columns = loaded.model.columns
    if rows < 1:
        raise InvalidInputError.of_field("packed.rows", f"is {rows}; must be at least 1")
    expected = rows * columns * dtype.itemsize
    if len(data) != expected:
        raise InvalidInputError.of_field(
            "packed.values",
            f"has {len(data)} bytes; {rows} rows of {columns} features of {dtype.itemsize} bytes each are {expected}",
            reason="FEATURE_COUNT_MISMATCH",
        )
    return np.frombuffer(data, dtype).reshape(rows, columns).astype(np.float64, copy=False)


def check(rows: Matrix, loaded: LoadedModel, path: Path) -> None:
    """Check that the model can take the values.

    Raises InvalidInputError, naming each value that is at fault: NON_FINITE_FEATURE, or OUT_OF_RANGE for one that its
    input's type cannot hold.
    """
    # One pass tells of the usual rows: a value that is not finite leaves no sum that is below anything.
    if np.vdot(rows, rows) < loaded.model.most_squares:
        return
    if not np.isfinite(rows).all():
        _refuse(rows, ~np.isfinite(rows), path, "must be a finite number", "NON_FINITE_FEATURE")
    unfit = loaded.model.unfit(rows)
    if unfit is not None:
        _refuse(rows, unfit, path, "the model's input cannot hold it", "OUT_OF_RANGE")


def _refuse(rows: Matrix, at_fault: NDArray[np.bool_], path: Path, why: str, reason: str) -> None:
    violations = Violations()
    for row, column in np.argwhere(at_fault)[:_NAMED_AT_MOST]:
        violations.add(path(int(row), int(column)), f"is {rows[row, column]}; {why}")
    violations.raise_if_any(reason=reason)


def wrong_count(field: str, got: int, loaded: LoadedModel) -> InvalidInputError:
    """The error of a row with too few features, or too many."""
    names = loaded.manifest.feature_names
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return InvalidInputError.of_field(
        field,
        f"has {got} features; model {loaded.manifest.name!r} takes {loaded.model.columns} ({listed})",
        reason="FEATURE_COUNT_MISMATCH",
    )


def of_one_row(_row: int, column: int) -> str:
    """Path in a request of one row."""
    return f"features[{column}]"


def of_batch(row: int, column: int) -> str:
    """Path in a batch."""
    return f"batch[{row}].features[{column}]"


def of_packed(row: int, column: int) -> str:
    """Path in packed rows."""
    return f"packed.values[{row}][{column}]"
