"""A model that does not come to an end is refused, and does not hold a thread for ever."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelstore import onnx_model
from runtime.errors import InvalidInputError


def endless() -> bytes:
    """y = x·w, then plus one 2⁶² times."""
    value, truth = TensorProto.FLOAT, TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["v", "one"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", truth, []),
            helper.make_tensor_value_info("v", value, None),
        ],
        [helper.make_tensor_value_info("go_on", truth, []), helper.make_tensor_value_info("next", value, None)],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Loop", ["turns", "go", "m"], ["y"], body=body),
        ],
        "endless",
        [helper.make_tensor_value_info("x", value, ["n", 2])],
        [helper.make_tensor_value_info("y", value, None)],
        [
            numpy_helper.from_array(np.zeros((2, 1), np.float32), "w"),
            numpy_helper.from_array(np.array(2**62, np.int64), "turns"),
            numpy_helper.from_array(np.array(True), "go"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_model_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "_PROBE_S", 0.2)
    with pytest.raises(InvalidInputError, match=r"more than 0\.2 s") as caught:
        onnx_model.OnnxModel.load(endless())
    assert caught.value.reason == onnx_model.OUTPUT_MISMATCH
