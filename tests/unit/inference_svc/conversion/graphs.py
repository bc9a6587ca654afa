"""Small graphs and manifests for the tests of conversion."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from inference_svc.conversion.exported import PREDICTION, Exported
from modelstore.manifest import Manifest


def manifest(columns: int, **fields: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "converted",
        "strategy": "momentum",
        "feature_set": "equities_test",
        "feature_names": tuple(f"f{column}" for column in range(columns)),
        "prediction_unit": "fraction",
    }
    return Manifest(**(values | fields))


def rows(count: int = 200, columns: int = 3, seed: int = 7) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, columns))


def linear(weights: NDArray[Any], batch: int | str | None = None, names: tuple[str, str] = ("in", "out")) -> ModelProto:
    """rows @ weights, [F, 1], as an exporter might write it: with notes, unused parts and an axis of this length."""
    graph = helper.make_graph(
        [
            helper.make_node("Neg", ["in"], ["unused"]),
            helper.make_node("MatMul", ["in", "w"], ["m"], doc_string="from /home/someone/train.py, line 7"),
            helper.make_node("Identity", ["m"], [names[1]], name="identity_4711"),
        ],
        "graph-0815",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [batch, len(weights)])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [1])],  # wrong, as exporters' often is
        [numpy_helper.from_array(weights.astype(np.float32).reshape(-1, 1), "w")],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 13)],
        producer_name="someone",
        doc_string="noise",
    )


def exported(graph: ModelProto, weights: NDArray[Any], **fields: Any) -> Exported:
    """A linear model and its graph; the original is `rows @ weights` in float64."""
    values: dict[str, Any] = {
        "graph": graph,
        "reference": lambda given: (given.astype(np.float64) @ weights.reshape(-1, 1),),
        "framework": "arithmetic 1",
        "input_names": ("rows",),
        "output_names": (PREDICTION,),
    }
    return Exported(**(values | fields))


def classifier(weights: NDArray[Any]) -> ModelProto:
    """Two classes: probabilities by a sigmoid of rows @ weights, and the likelier label."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["rows", "w"], ["m"]),
            helper.make_node("Sigmoid", ["m"], ["second"]),
            helper.make_node("Sub", ["one", "second"], ["first"]),
            helper.make_node("Concat", ["first", "second"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        "classifier",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(weights)])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        [
            numpy_helper.from_array(weights.astype(np.float32).reshape(-1, 1), "w"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
