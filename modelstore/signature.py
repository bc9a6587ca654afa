"""What an ONNX graph takes and gives.

How a row of features is laid over its inputs, and which number of its outputs is the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.errors import InvalidInputError

FIELD = "chunk"
"""Field that a fault of the ONNX bytes is told under."""

COLUMN_MISMATCH = "COLUMN_MISMATCH"
OUTPUT_MISMATCH = "OUTPUT_MISMATCH"

Outputs: TypeAlias = Mapping[str, NDArray[Any]]

_DTYPES: dict[str, str] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "string",
}
_OF_FEATURES = ("float32", "float64", "int64", "int32")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model takes or gives. An axis of free length is None; the first axis is the rows."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def columns(self) -> int:
        """Numbers of one row of an input: [N, F] has F, [N] has one."""
        return (self.shape[1] or 0) if len(self.shape) == 2 else 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """The one number of a row: an output, and its column there."""

    output: str
    column: int


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in the graph's order. A row of features is laid over the inputs from left to right."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def columns(self) -> int:
        """Number of features of a row."""
        return sum(each.columns for each in self.inputs)


def read(session: ort.InferenceSession) -> Signature:
    """Read what a loaded graph takes and gives.

    Each input is a tensor [N, F] or [N] of float32, float64, int64 or int32, with N free and F fixed. Raises
    InvalidInputError (COLUMN_MISMATCH).
    """
    inputs = tuple(_spec(each) for each in session.get_inputs())
    if not inputs or not all(_takes_rows(each) for each in inputs):
        found = ", ".join(f"{i.name} {i.type}{list(i.shape or [])}" for i in session.get_inputs())
        raise InvalidInputError.of_field(
            FIELD,
            f"needs inputs of shape [N, F] or [N], N free and F fixed, of float, double or integers (inputs: {found})",
            reason=COLUMN_MISMATCH,
        )
    return Signature(inputs, tuple(_spec(each) for each in session.get_outputs()))


def _spec(tensor: Any) -> TensorSpec:
    # An axis of unknown length is None or a name. Without shape inference an output has no shape at all.
    shape = tuple(axis if isinstance(axis, int) else None for axis in tensor.shape or ())
    return TensorSpec(tensor.name, _DTYPES.get(tensor.type, tensor.type), shape)


def _takes_rows(spec: TensorSpec) -> bool:
    if spec.dtype not in _OF_FEATURES or len(spec.shape) not in (1, 2) or spec.shape[0] is not None:
        return False  # a fixed number of rows cannot be batched
    return len(spec.shape) == 1 or bool(spec.shape[1])


def find_prediction(outputs: Outputs, rows: int) -> Prediction:
    """Find the prediction among what a model gave for so many rows.

    It is the one float output with one number a row, [N] or [N, 1]. A classifier has none: there it is the
    probability of the second class, when it has a label and float probabilities [N, 2]. Raises InvalidInputError
    (OUTPUT_MISMATCH) when none or several qualify: nobody should have to guess which number is traded on.
    """
    floats = {name: array for name, array in outputs.items() if _is_float(array)}
    single = [name for name, array in floats.items() if array.shape in ((rows,), (rows, 1))]
    if len(single) == 1:
        return Prediction(single[0], 0)
    labelled = any(not _is_float(array) and _shape(array) in ((rows,), (rows, 1)) for array in outputs.values())
    binary = [name for name, array in floats.items() if array.shape == (rows, 2)]
    if not single and labelled and len(binary) == 1:
        return Prediction(binary[0], 1)
    found = ", ".join(
        f"{name} {getattr(array, 'dtype', 'sequence')}{list(_shape(array))}" for name, array in outputs.items()
    )
    raise InvalidInputError.of_field(
        FIELD,
        f"needs exactly one float output with one number a row, or the probabilities of two classes beside a label; "
        f"has {len(single)} for {rows} rows: {found}",
        reason=OUTPUT_MISMATCH,
    )


def completed(signature: Signature, outputs: Outputs, prediction: Prediction) -> Signature:
    """The signature with what a run showed of its outputs: the rank of one whose shape the graph does not tell, and
    the whole shape of the prediction's.
    """

    def shown(spec: TensorSpec) -> TensorSpec:
        axes = _shape(outputs[spec.name])[1:]
        if spec.name == prediction.output:
            return TensorSpec(spec.name, spec.dtype, (None, *axes))
        return spec if spec.shape else TensorSpec(spec.name, spec.dtype, (None, *(None for _ in axes)))

    return Signature(signature.inputs, tuple(map(shown, signature.outputs)))


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype in (np.float32, np.float64)


def _shape(array: Any) -> tuple[int, ...]:
    return array.shape if isinstance(array, np.ndarray) else ()
