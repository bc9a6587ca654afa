"""A loaded ONNX model: the one place that knows how a prediction is read out of an ONNX graph.

Registration checks a model with this class and inference serves it with the same class, so a model that was accepted
is a model that can be served.
"""

from __future__ import annotations

import threading
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.errors import InvalidInputError

Rows: TypeAlias = NDArray[np.float64] | NDArray[np.float32]

FIELD = "chunk"
"""Field that a fault of the ONNX bytes is told under."""

NOT_ONNX = "NOT_ONNX"
COLUMN_MISMATCH = "COLUMN_MISMATCH"
OUTPUT_MISMATCH = "OUTPUT_MISMATCH"

_PROBE_S = 5.0
"""A model that takes longer for two rows is no model to serve; a loop without an end is one."""

_DTYPES: dict[str, type[np.float32] | type[np.float64]] = {"tensor(float)": np.float32, "tensor(double)": np.float64}


def prediction_output(session: ort.InferenceSession) -> str:
    """Name of the one output that is a prediction: a float tensor of one number a row, [N] or [N, 1].

    Other outputs (labels, probabilities) may stand beside it. Raises InvalidInputError (OUTPUT_MISMATCH) when none or
    several qualify: nobody should have to guess which number is traded on.
    """
    usable = [output.name for output in session.get_outputs() if _is_prediction(output)]
    if len(usable) != 1:
        found = ", ".join(f"{o.name} {o.type}{list(o.shape or [])}" for o in session.get_outputs())
        raise InvalidInputError.of_field(
            FIELD,
            f"needs exactly one float output of shape [N] or [N, 1], has {len(usable)} (outputs: {found})",
            reason=OUTPUT_MISMATCH,
        )
    return str(usable[0])


def _is_prediction(output: Any) -> bool:
    if output.type not in _DTYPES:
        return False
    # An axis of unknown length is None or a name. Without shape inference there is no shape at all: the probe decides.
    shape = list(output.shape or [])
    if len(shape) <= 1:
        return not shape or not isinstance(shape[0], int)
    return len(shape) == 2 and not isinstance(shape[0], int) and (shape[1] == 1 or not isinstance(shape[1], int))


def _input_columns(session: ort.InferenceSession) -> tuple[str, type[np.float32] | type[np.float64], int]:
    """Name, dtype and number of columns of the one input. Raises InvalidInputError (COLUMN_MISMATCH)."""
    inputs = session.get_inputs()
    shape = list(inputs[0].shape or []) if inputs else []
    if (
        len(inputs) != 1
        or inputs[0].type not in _DTYPES
        or len(shape) != 2
        or isinstance(shape[0], int)  # a fixed number of rows cannot be batched
        or not isinstance(shape[1], int)
    ):
        found = ", ".join(f"{i.name} {i.type}{list(i.shape or [])}" for i in inputs)
        raise InvalidInputError.of_field(
            FIELD,
            f"needs exactly one float or double input of shape [N, F], N free and F fixed (inputs: {found})",
            reason=COLUMN_MISMATCH,
        )
    return inputs[0].name, _DTYPES[inputs[0].type], shape[1]


class OnnxModel:
    """A model in memory. Safe to call from several threads; a call releases the interpreter lock."""

    __slots__ = ("_dtype", "_input", "_outputs", "_session", "columns")

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._input, self._dtype, self.columns = _input_columns(session)
        self._outputs = [prediction_output(session)]

    @classmethod
    def load(cls, onnx: bytes, threads: int = 1) -> OnnxModel:
        """Load, check the shapes, and run two rows of zeros, which also warms the model.

        Raises InvalidInputError: NOT_ONNX (the bytes do not load), COLUMN_MISMATCH (the input is not [N, F]),
        OUTPUT_MISMATCH (there is not one number for each row).
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A memory pattern is kept for each batch size ever seen; batches come in every size.
        options.enable_mem_pattern = False
        options.log_severity_level = 4  # what fails is raised as well
        try:
            session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its error classes share no base but this
            raise InvalidInputError.of_field(FIELD, f"does not load as ONNX: {error}", reason=NOT_ONNX) from error
        model = cls(session)
        limits = ort.RunOptions()
        watch = threading.Timer(_PROBE_S, lambda: setattr(limits, "terminate", True))
        watch.start()
        try:
            model._run(np.zeros((2, model.columns), dtype=np.float64), limits)
        except Exception as error:
            why = f"it took more than {_PROBE_S:g} s" if limits.terminate else str(error)
            description = f"does not give one number a row when run on two rows of zeros: {why}"
            raise InvalidInputError.of_field(FIELD, description, reason=OUTPUT_MISMATCH) from error
        finally:
            watch.cancel()
        return model

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Score rows of shape [N, columns], N >= 1; returns shape [N].

        A value beyond the range of a float32 model becomes infinite: check that predictions are finite.
        """
        return self._run(rows)

    def _run(self, rows: Rows, limits: ort.RunOptions | None = None) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(rows, dtype=self._dtype)
        result: NDArray[np.float64] = self._session.run(self._outputs, {self._input: array}, limits)[0]
        if result.size != len(array):
            raise RuntimeError(f"the model gave {result.size} numbers for {len(array)} rows")
        return result.reshape(-1).astype(np.float64, copy=False)
