"""Hold an ONNX model against the original: the same rows, output by output, row by row.

What both are given is the sample rows as float32, since that is what the ONNX model takes: a tree that splits between
two numbers which float32 cannot tell apart would differ for that reason alone. `Verification.float32_effect` says what
the cast itself does to the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inference_svc.conversion.errors import Difference, ParityError, SampleRowsError, UnsupportedModelError
from inference_svc.conversion.exported import Reference
from inference_svc.conversion.graph import Graph
from runtime.errors import InvalidInputError

_LEAST_ATOL = 1e-9
_SINGLE_ROWS = 64
_ODD_BATCHES = (2, 7)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart a number of the ONNX model and the original's may be: `atol + rtol * |original|`.

    Both are 0 or more and finite. `atol` None is `rtol` times the standard deviation of the original's output over the
    sample rows (at least 1e-9), so that the default means the same for returns of 0.001 and for prices of 100.
    """

    rtol: float = 1e-4
    atol: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if value is not None and not 0 <= value < np.inf:
                raise InvalidInputError.of_field(name, f"is {value}; must be finite, and 0 or more")


@dataclass(frozen=True, slots=True)
class OutputParity:
    """One output of numbers. Errors are against the original, over all rows; `atol` is the one that was used.

    `max_rel_error` is the largest error as a share of the original's size, over rows where that is above `atol`.
    """

    name: str
    columns: int
    atol: float
    max_abs_error: float
    max_rel_error: float
    varies: bool


@dataclass(frozen=True, slots=True)
class LabelParity:
    """One output of labels. `ties` are rows where the original's two best classes are closer than the tolerance."""

    name: str
    differing: int
    ties: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and how far apart the two were at most.

    `batch_sizes` were run besides the whole; `batch_effect` is the largest difference between a row of a batch and the
    same row in another batch, `float32_effect` that between the original's answers to float64 and to float32 rows
    (None when it takes no float64, or the rows were float32 already).
    """

    rows: int
    features: int
    rtol: float
    outputs: tuple[OutputParity, ...]
    labels: tuple[LabelParity, ...]
    batch_sizes: tuple[int, ...]
    batch_effect: float
    float32_effect: float | None

    @property
    def varies(self) -> bool:
        """Whether the model told the sample rows apart at all; if not, little was verified."""
        return any(each.varies for each in self.outputs)


def sample(rows: ArrayLike) -> NDArray[np.float64]:
    """Check sample rows: [N, F], N >= 2, finite also as float32. Raises SampleRowsError."""
    try:
        array = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SampleRowsError(f"are no numbers: {error}") from error
    if array.ndim != 2 or len(array) < 2 or array.shape[1] < 1:
        raise SampleRowsError(
            f"have shape {list(array.shape)}; needed are at least two rows [N, F], best some hundreds"
        )
    with np.errstate(over="ignore"):
        wrong = ~np.isfinite(array.astype(np.float32))
    if wrong.any():
        row, column = (int(each) for each in np.argwhere(wrong)[0])
        raise SampleRowsError(f"have {array[row, column]} at [{row}, {column}]; needed are finite numbers of float32")
    return array


def verify(
    graph: Graph,
    names: Sequence[str],
    reference: Reference,
    rows: NDArray[np.float64],
    tolerance: Tolerance,
    *,
    takes_float64: bool = False,
    hint: str = "",
) -> Verification:
    """Compare a graph with its original on rows [N, F] that `sample` has checked.

    `names` are the outputs, in the order of both. Raises ParityError (the largest excess over the tolerance, `hint`
    added), FixedBatchError (the graph does not run on every number of rows).
    """
    single = rows.astype(np.float32)
    originals = [_table(each, len(rows)) for each in reference(single)]
    converted = [_table(each, len(rows)) for each in graph.run_batch(single)]
    if [each.shape for each in originals] != [each.shape for each in converted]:
        raise UnsupportedModelError(
            f"the original gives shapes {[each.shape for each in originals]}, "
            f"the ONNX model {[each.shape for each in converted]}"
        )
    atols = [_atol(each, tolerance) for each in originals]
    numbers, labels = [], []
    for name, original, found, atol in zip(names, originals, converted, atols, strict=True):
        if _is_number(original):
            numbers.append(compare(name, original, found, tolerance.rtol, atol, hint))
    scores = [
        (each, atol) for each, atol in zip(originals, atols, strict=True) if _is_number(each) and each.shape[1] > 1
    ]
    for name, original, found in zip(names, originals, converted, strict=True):
        if not _is_number(original):
            labels.append(_compare_labels(name, original, found, scores, tolerance.rtol))
    sizes, effect = _compare_batches(graph, names, single, converted, tolerance.rtol, atols)
    return Verification(
        rows=len(rows),
        features=rows.shape[1],
        rtol=tolerance.rtol,
        outputs=tuple(numbers),
        labels=tuple(labels),
        batch_sizes=sizes,
        batch_effect=effect,
        float32_effect=_float32_effect(reference, rows, originals) if takes_float64 else None,
    )


def compare(
    name: str, original: NDArray[Any], converted: NDArray[Any], rtol: float, atol: float, hint: str = ""
) -> OutputParity:
    """Compare numbers [N, C] with the original's. Raises ParityError; what is not finite in either is a mismatch."""
    original, converted = original.astype(np.float64), converted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        errors = np.abs(converted - original)
        allowed = atol + rtol * np.abs(original)
        over = ~(errors <= allowed)  # so that NaN is over
    if over.any():
        excess = np.where(over, np.nan_to_num(errors - allowed, nan=np.inf), -np.inf)
        row, column = (int(each) for each in np.unravel_index(int(excess.argmax()), excess.shape))
        raise ParityError(
            Difference(
                output=name,
                row=row,
                column=column,
                original=float(original[row, column]),
                converted=float(converted[row, column]),
                tolerance=float(allowed[row, column]),
                rows_over=int(over.any(axis=1).sum()),
                rows=len(original),
            ),
            hint,
        )
    sizes = np.abs(original)
    large = sizes > max(atol, _LEAST_ATOL)
    return OutputParity(
        name=name,
        columns=original.shape[1],
        atol=atol,
        max_abs_error=float(errors.max()),
        max_rel_error=float((errors[large] / sizes[large]).max()) if large.any() else 0.0,
        varies=bool(np.ptp(original, axis=0).max() > 0),
    )


def _compare_labels(
    name: str,
    original: NDArray[Any],
    converted: NDArray[Any],
    scores: Sequence[tuple[NDArray[Any], float]],
    rtol: float,
) -> LabelParity:
    """Labels are equal, but where the scores of the two best classes are a tie within the tolerance."""
    differing = (original.astype(str) != converted.astype(str)).any(axis=1)
    tied = np.zeros(len(original), dtype=np.bool_)
    for table, atol in scores:
        best = np.sort(table.astype(np.float64), axis=1)[:, -2:]
        tied |= best[:, 1] - best[:, 0] <= 2 * (atol + rtol * np.abs(best[:, 1]))
    wrong = differing & ~tied
    if wrong.any():
        row = int(wrong.argmax())
        raise ParityError(
            Difference(name, row, 0, str(original[row, 0]), str(converted[row, 0]), 0.0, int(wrong.sum()), len(wrong))
        )
    return LabelParity(name, int(differing.sum()), int(tied.sum()))


def _compare_batches(
    graph: Graph,
    names: Sequence[str],
    rows: NDArray[np.float32],
    whole: Sequence[NDArray[Any]],
    rtol: float,
    atols: Sequence[float],
) -> tuple[tuple[int, ...], float]:
    """Run the first rows alone and in small batches; returns the sizes, and the largest difference to the whole."""
    effect = 0.0
    sizes = [1, *(size for size in _ODD_BATCHES if size < len(rows))]
    for size in sizes:
        count = min(len(rows), _SINGLE_ROWS) // size * size
        parts = [graph.run_batch(rows[first : first + size]) for first in range(0, count, size)]
        for index, (name, expected, atol) in enumerate(zip(names, whole, atols, strict=True)):
            if _is_number(expected):
                found = np.concatenate([_table(part[index], size) for part in parts])
                hint = (
                    f"The original is here the same row in a batch of {len(rows)}, the other one in a batch of {size}"
                )
                effect = max(effect, compare(name, expected[:count], found, rtol, atol, hint).max_abs_error)
    return tuple(sizes), effect


def _float32_effect(reference: Reference, rows: NDArray[np.float64], originals: Sequence[NDArray[Any]]) -> float | None:
    if np.array_equal(rows, rows.astype(np.float32)):
        return None
    effects = [
        np.abs(_table(exact, len(rows)).astype(np.float64) - original).max()
        for exact, original in zip(reference(rows), originals, strict=True)
        if _is_number(original)
    ]
    return float(max(effects, default=0.0))


def _atol(original: NDArray[Any], tolerance: Tolerance) -> float:
    if tolerance.atol is not None or not _is_number(original):
        return tolerance.atol or 0.0
    deviation = float(np.std(original.astype(np.float64)))
    return max(_LEAST_ATOL, tolerance.rtol * deviation) if np.isfinite(deviation) else _LEAST_ATOL


def _table(output: Any, rows: int) -> NDArray[Any]:
    """An output [N] or [N, C] as [N, C]."""
    array = np.asarray(output)
    if array.ndim not in (1, 2) or len(array) != rows:
        raise UnsupportedModelError(
            f"for {rows} rows it gives an output of shape {list(array.shape)}; each is to be [N] or [N, C]"
        )
    return array.reshape(rows, -1)


def _is_number(array: NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))
