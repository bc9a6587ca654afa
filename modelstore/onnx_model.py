"""A loaded ONNX model: the one place that knows how a prediction is read out of an ONNX graph.

Registration checks a model with this class and inference serves it with the same class, so a model that was accepted
is a model that can be served.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from modelstore import signature
from modelstore.signature import COLUMN_MISMATCH, FIELD, OUTPUT_MISMATCH, Prediction, Signature, TensorSpec
from runtime.errors import InvalidInputError

__all__ = ["COLUMN_MISMATCH", "FIELD", "NOT_ONNX", "OUTPUT_MISMATCH", "OnnxModel", "Rows"]

Rows: TypeAlias = NDArray[np.float64] | NDArray[np.float32]

NOT_ONNX = "NOT_ONNX"

CPU = ("CPUExecutionProvider",)

_MOST_FLOAT32 = float(np.finfo(np.float32).max)
_MOST_SQUARES = {"float32": _MOST_FLOAT32**2, "float64": float(np.finfo(np.float64).max)}
# Whole numbers that a float64 holds exactly, so that no feature changes on its way to an int64 input.
_MOST_INTEGER = {"int32": float(2**31 - 1), "int64": float(2**53)}

_PROBE_ROWS = 2
_PROBE_S = 5.0
"""A model that takes longer for two rows is no model to serve; a loop without an end is one."""


class OnnxModel:
    """A model in memory. Safe to call from several threads; a call releases the interpreter lock."""

    __slots__ = ("_inputs", "_only_input", "_session", "columns", "dtype", "most_squares", "prediction", "signature")

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.signature: Signature = signature.read(session)
        self.columns: int = self.signature.columns
        self._inputs = _slices(self.signature.inputs)
        self._only_input = self.signature.inputs[0].name if _is_matrix(self.signature.inputs) else None
        # Rows of this type are taken as they are, without a copy.
        self.dtype: DTypeLike = np.dtype(self.signature.inputs[0].dtype) if self._only_input else np.dtype(np.float64)
        self.most_squares: float = _MOST_SQUARES[self.signature.inputs[0].dtype] if self._only_input else 0.0
        outputs = self._probe()
        self.prediction: Prediction = signature.find_prediction(outputs, _PROBE_ROWS)
        self.signature = signature.completed(self.signature, outputs, self.prediction)

    @classmethod
    def load(
        cls,
        onnx: bytes | Path,
        threads: int = 1,
        *,
        providers: Sequence[str] = CPU,
        optimized_to: Path | None = None,
        optimize: bool = True,
    ) -> OnnxModel:
        """Load, check the shapes, and run two rows of zeros, which also warms the model.

        `optimized_to` is where the optimised graph is written; `optimize` False loads one that was written so.
        Raises InvalidInputError: NOT_ONNX (it does not load), COLUMN_MISMATCH (the inputs are not [N, F]),
        OUTPUT_MISMATCH (there is not one number for each row).
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A memory pattern is kept for each batch size ever seen; batches come in every size.
        options.enable_mem_pattern = False
        options.log_severity_level = 4  # what fails is raised as well
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if optimized_to is not None:
            options.optimized_model_filepath = str(optimized_to)
        try:
            session = ort.InferenceSession(
                str(onnx) if isinstance(onnx, Path) else onnx, options, providers=list(providers)
            )
        except Exception as error:  # its error classes share no base but this
            raise InvalidInputError.of_field(FIELD, f"does not load as ONNX: {error}", reason=NOT_ONNX) from error
        return cls(session)

    @property
    def providers(self) -> Sequence[str]:
        """What runs it, in order of preference, such as `CPUExecutionProvider`."""
        return tuple(self._session.get_providers())

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Score rows of shape [N, columns], N >= 1; returns shape [N].

        Values are to fit the model's inputs (see `unfit`); whether predictions are finite is the caller's to check.
        """
        output, column = self.prediction.output, self.prediction.column
        result: NDArray[Any] = self._session.run([output], self._feed(rows))[0]
        if result.ndim == 2:
            result = result[:, column] if column or result.shape[1] == 1 else result
        if result.shape != (len(rows),):
            raise RuntimeError(f"the model gave {list(result.shape)} numbers for {len(rows)} rows")
        return result.astype(np.float64, copy=False)

    def unfit(self, rows: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Where finite values of rows [N, columns] are none of their input's type: beyond the range of float32, or no
        whole number for an integer input. None when all fit, the usual case.
        """
        if self.dtype == np.float64 and self._only_input is not None:
            return None
        if self._only_input is not None and rows.max() <= _MOST_FLOAT32 and rows.min() >= -_MOST_FLOAT32:
            return None
        unfit = np.zeros(rows.shape, np.bool_)
        for spec, first, last in self._inputs:
            part = rows[:, first:last]
            if spec.dtype == "float32":
                unfit[:, first:last] = np.abs(part) > _MOST_FLOAT32
            elif spec.dtype in _MOST_INTEGER:
                unfit[:, first:last] = (np.abs(part) > _MOST_INTEGER[spec.dtype]) | (part != np.rint(part))
        return unfit if unfit.any() else None

    def outputs(self, inputs: Mapping[str, NDArray[Any]]) -> signature.Outputs:
        """Run the graph on its own inputs, [N, F] or [N] each, in their dtypes; returns all outputs by name."""
        return self._run(inputs, None)

    def _feed(self, rows: Rows) -> dict[str, NDArray[Any]]:
        if self._only_input is not None:
            return {self._only_input: rows if rows.dtype == self.dtype else _cast(rows, self.dtype)}
        return {
            spec.name: _cast(rows[:, first] if len(spec.shape) == 1 else rows[:, first:last], spec.dtype)
            for spec, first, last in self._inputs
        }

    def _run(self, feed: Mapping[str, NDArray[Any]], limits: ort.RunOptions | None) -> signature.Outputs:
        names = [each.name for each in self.signature.outputs]
        return dict(zip(names, self._session.run(names, dict(feed), limits), strict=True))

    def _probe(self) -> signature.Outputs:
        limits = ort.RunOptions()
        watch = threading.Timer(_PROBE_S, lambda: setattr(limits, "terminate", True))
        watch.start()
        try:
            return self._run(self._feed(np.zeros((_PROBE_ROWS, self.columns))), limits)
        except Exception as error:
            why = f"it took more than {_PROBE_S:g} s" if limits.terminate else str(error)
            description = f"does not give one number a row when run on two rows of zeros: {why}"
            raise InvalidInputError.of_field(FIELD, description, reason=OUTPUT_MISMATCH) from error
        finally:
            watch.cancel()


def _is_matrix(inputs: Sequence[TensorSpec]) -> bool:
    """Whether rows go in as they are: one input of floats, [N, F]."""
    return len(inputs) == 1 and len(inputs[0].shape) == 2 and inputs[0].dtype in ("float32", "float64")


def _slices(inputs: Sequence[TensorSpec]) -> tuple[tuple[TensorSpec, int, int], ...]:
    slices, first = [], 0
    for spec in inputs:
        slices.append((spec, first, first + spec.columns))
        first += spec.columns
    return tuple(slices)


def _cast(rows: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rows, dtype=dtype)
