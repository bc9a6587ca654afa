"""Tiny real models: linear ones, made with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from modelstore.manifest import Manifest

STRATEGY = "us_equities"


def linear(coefficients: Sequence[float]) -> bytes:
    """ONNX bytes of a model that gives the rows times the coefficients."""
    weights = numpy_helper.from_array(np.array(coefficients, np.float32).reshape(-1, 1), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weights"], ["prediction"])],
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(coefficients)])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def manifest(columns: int = 2, strategy: str = STRATEGY, name: str = "linear") -> Manifest:
    """A manifest for a model with that many columns."""
    return Manifest(
        name=name,
        strategy=strategy,
        feature_set="equities_daily",
        feature_names=tuple(f"f{column}" for column in range(columns)),
        prediction_unit="fraction",
        signal_threshold=0.001,
        metrics={"train_r2": 0.02},
        training_cutoff_us=1_500_000_000_000_001,
    )


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()
