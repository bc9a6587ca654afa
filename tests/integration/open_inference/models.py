"""Models with more to them than one input and one output, and ONNX Runtime without anything around it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier

from tests.integration.inference_svc.models import rows


@cache
def classifier() -> bytes:
    """Label and probabilities of two classes."""
    x = rows(256)
    model = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(x, x[:, 0] > 0)
    return bytes(to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())


@cache
def text_labels() -> bytes:
    """As `classifier`, with labels that are texts."""
    x = rows(256)
    model = GradientBoostingClassifier(n_estimators=5, random_state=0).fit(x, np.where(x[:, 0] > 0, "auf", "ab"))
    return bytes(to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())


@cache
def two_inputs() -> bytes:
    """`prices` [N, 2] and `count` [N] of integers, three columns together; `score` [N] and `doubled` [N, 2]."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["count"], ["counted"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["prices", "axis"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "counted"], ["score"]),
            helper.make_node("Add", ["prices", "prices"], ["doubled"]),
        ],
        "two_inputs",
        [
            helper.make_tensor_value_info("prices", TensorProto.FLOAT, [None, 2]),
            helper.make_tensor_value_info("count", TensorProto.INT64, [None]),
        ],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, [None, 2]),
        ],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def direct(onnx: bytes, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What ONNX Runtime gives for this input."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, feed), strict=True))
