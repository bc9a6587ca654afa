"""An ONNX model in memory, run as inference runs it: on the CPU, by one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inference_svc.conversion.errors import FixedBatchError, SampleRowsError, UnsupportedModelError
from inference_svc.conversion.exported import Rows

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class Graph:
    """A loaded graph. `columns` is the number of features that a row has, over all inputs."""

    def __init__(self, onnx: bytes) -> None:
        """Raises UnsupportedModelError when ONNX Runtime does not load it, or an input is no [N, F] of numbers."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised as well
        try:
            self._session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its error classes share no base but this
            raise UnsupportedModelError(f"ONNX Runtime does not load what its exporter wrote: {error}") from error
        self._inputs = [
            (each.name, _DTYPES[each.type], _columns(each)) for each in map(_checked, self._session.get_inputs())
        ]
        self._outputs = [str(each.name) for each in self._session.get_outputs()]
        self.columns = sum(count for _, _, count in self._inputs)

    def __call__(self, rows: Rows) -> list[NDArray[Any]]:
        """Run rows [N, columns], N >= 1; returns the outputs in their order.

        Raises SampleRowsError for another number of columns; what ONNX Runtime raises when the graph fails.
        """
        if rows.shape[1] != self.columns:
            raise SampleRowsError(f"have {rows.shape[1]} columns; the model takes {self.columns}")
        feed, first = {}, 0
        for name, dtype, count in self._inputs:
            feed[name] = np.ascontiguousarray(rows[:, first : first + count], dtype=dtype)
            first += count
        outputs: list[NDArray[Any]] = self._session.run(self._outputs, feed)
        return outputs

    def run_batch(self, rows: Rows) -> list[NDArray[Any]]:
        """As a call, but a graph that fails or gives another number of rows is one that takes no such batch.

        Raises FixedBatchError.
        """
        try:
            outputs = self(rows)
        except SampleRowsError:
            raise
        except Exception as error:
            raise FixedBatchError(f"the graph fails on {len(rows)} rows: {error}") from error
        for name, output in zip(self._outputs, outputs, strict=True):
            if output.ndim not in (1, 2) or len(output) != len(rows):
                raise FixedBatchError(
                    f"for {len(rows)} rows, output {name} has shape {list(output.shape)}, not {len(rows)} rows"
                )
        return outputs


def _checked(tensor: Any) -> Any:
    shape = list(tensor.shape or [])
    if tensor.type not in _DTYPES or len(shape) != 2 or not isinstance(shape[1], int):
        raise UnsupportedModelError(
            f"its input {tensor.name} is {tensor.type}{shape}; rows of features are [N, F] of float, double or "
            "integers, F fixed: reshape inside the model"
        )
    return tensor


def _columns(tensor: Any) -> int:
    return int(tensor.shape[1])
