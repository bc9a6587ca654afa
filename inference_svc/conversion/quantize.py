"""int8 weights for matrix products, and a report of what that costs and gains.

`dynamic` finds the scale of each layer's input when it runs, over the whole batch: a row's answer then depends a little
on the rows beside it. `static` fixes the scales beforehand by the sample rows: a row's answer is its own, but inputs of
a layer beyond what the samples gave are cut off.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization

from inference_svc.conversion.errors import INT8_PARITY, NOTHING_TO_QUANTISE
from inference_svc.conversion.frameworks import quietly
from inference_svc.conversion.graph import Graph
from runtime.errors import InvalidInputError

Mode: TypeAlias = Literal["dynamic", "static"]

_PRODUCTS = ("MatMul", "Gemm")
_TIMED_ROWS = 256
_TIMED_S = 0.2
_TREES = ("TreeEnsembleRegressor", "TreeEnsembleClassifier")


@dataclass(frozen=True, slots=True)
class Int8Output:
    """One output of numbers of the int8 model, against the original's, over all sample rows.

    `rank_correlation` is Spearman's, the lowest of the columns; NaN when a column of either does not vary.
    """

    name: str
    max_abs_error: float
    mean_abs_error: float
    rank_correlation: float


@dataclass(frozen=True, slots=True)
class Int8Report:
    """What int8 costs and gains. Speeds are the float model's time over the int8 model's, medians, in this process.

    `batch_effect` is the largest difference between a row scored alone and the same row within all sample rows.
    """

    mode: Mode
    outputs: tuple[Int8Output, ...]
    batch_effect: float
    float_bytes: int
    int8_bytes: int
    speed_one_row: float
    speed_many_rows: float
    timed_rows: int


def to_int8(model: onnx.ModelProto, rows: NDArray[np.float64], mode: Mode) -> onnx.ModelProto:
    """Quantise the matrix products of a graph of one input; `rows` [N, F] calibrate `static`.

    Raises InvalidInputError (reason NOTHING_TO_QUANTISE) for a graph without a product with constant weights.
    """
    _require_products(model)
    with tempfile.TemporaryDirectory() as folder, quietly():
        target = Path(folder) / "int8.onnx"
        if mode == "dynamic":
            quantization.quantize_dynamic(
                model, str(target), op_types_to_quantize=list(_PRODUCTS), weight_type=quantization.QuantType.QInt8
            )
        else:
            quantization.quantize_static(
                model,
                str(target),
                _Calibration(model, rows),
                op_types_to_quantize=list(_PRODUCTS),
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
                # What a layer gives stays float: only its input is cut off at the samples' range, never a prediction.
                extra_options={"OpTypesToExcludeOutputQuantization": list(_PRODUCTS)},
            )
        return onnx.load(str(target))


def int8_report(
    mode: Mode,
    names: Sequence[str],
    originals: Sequence[NDArray[Any]],
    rows: NDArray[np.float64],
    before: bytes,
    after: bytes,
) -> Int8Report:
    """Hold the int8 model `after` against the original's outputs [N, C], and against the float model `before`."""
    slow, fast = Graph(before), Graph(after)
    single = rows.astype(np.float32)
    found = fast.run_batch(single)
    outputs = tuple(
        _output(name, original.astype(np.float64), each.reshape(original.shape).astype(np.float64))
        for name, original, each in zip(names, originals, found, strict=True)
        if np.issubdtype(original.dtype, np.floating)
    )
    alone = [fast.run_batch(single[row : row + 1]) for row in range(min(len(single), _TIMED_ROWS))]
    effects = [
        np.abs(np.concatenate([each[index] for each in alone]) - whole[: len(alone)]).max()
        for index, whole in enumerate(found)
        if np.issubdtype(whole.dtype, np.floating)
    ]
    many = np.resize(single, (_TIMED_ROWS, single.shape[1]))
    return Int8Report(
        mode=mode,
        outputs=outputs,
        batch_effect=float(max(effects)),
        float_bytes=len(before),
        int8_bytes=len(after),
        speed_one_row=_speed(slow, fast, single[:1]),
        speed_many_rows=_speed(slow, fast, many),
        timed_rows=_TIMED_ROWS,
    )


def require_parity(report: Int8Report, least: float) -> None:
    """Raises InvalidInputError (reason INT8_PARITY) when an output's ranks are not those of the original."""
    for output in report.outputs:
        if not output.rank_correlation >= least:
            raise InvalidInputError(
                f"int8 changes the order of {output.name} too much: its rank correlation with the original is "
                f"{output.rank_correlation:.4f}, and at least {least:g} is required (largest error "
                f"{output.max_abs_error:.3g}); keep it in float32, or take the other mode",
                reason=INT8_PARITY,
                field="int8",
                metadata={"output": output.name, "rank_correlation": repr(output.rank_correlation)},
            )


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two columns [N]: Pearson's of the ranks, ties at their mean rank.

    NaN when one of them does not vary.
    """
    ranks = [_ranks(one), _ranks(other)]
    spreads = [each - each.mean() for each in ranks]
    scale = np.sqrt((spreads[0] ** 2).sum() * (spreads[1] ** 2).sum())
    return float((spreads[0] * spreads[1]).sum() / scale) if scale > 0 else float("nan")


def _ranks(column: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = (last - (counts - 1) / 2.0)[place]
    return mean


def _output(name: str, original: NDArray[np.float64], found: NDArray[np.float64]) -> Int8Output:
    errors = np.abs(found - original)
    correlations = [rank_correlation(original[:, each], found[:, each]) for each in range(original.shape[1])]
    return Int8Output(name, float(errors.max()), float(errors.mean()), float(np.min(correlations)))


def _require_products(model: onnx.ModelProto) -> None:
    constants = {each.name for each in model.graph.initializer}
    nodes = model.graph.node
    if any(node.op_type in _PRODUCTS and any(name in constants for name in node.input[:2]) for node in nodes):
        return
    kinds = sorted({node.op_type for node in nodes})
    why = (
        "trees hold thresholds, not weight matrices"
        if any(kind in _TREES for kind in kinds)
        else "int8 replaces matrix products with constant weights (MatMul, Gemm)"
    )
    raise InvalidInputError(
        f"there is nothing to quantise: {why}, and the graph is made of {', '.join(kinds)}",
        reason=NOTHING_TO_QUANTISE,
        field="int8",
    )


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
    def __init__(self, model: onnx.ModelProto, rows: NDArray[np.float64]) -> None:
        shapes = {each.name: each.type.tensor_type for each in model.graph.input}
        feed, first = {}, 0
        for name, kind in shapes.items():
            count = kind.shape.dim[1].dim_value
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feed[name] = np.ascontiguousarray(rows[:, first : first + count], dtype=dtype)
            first += count
        self._feeds = iter([feed])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The sample rows, once."""
        return next(self._feeds, None)


def _speed(slow: Graph, fast: Graph, rows: NDArray[np.float32]) -> float:
    """Median time of the one over that of the other, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + _TIMED_S
    while time.perf_counter() < until or len(times[0]) < 5:
        for graph, taken in zip((slow, fast), times, strict=True):
            start = time.perf_counter()
            graph(rows)
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])
