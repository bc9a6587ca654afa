"""Real ONNX models, registered in a real store, and a replica that serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge

from inference_svc.app import Inference, build
from inference_svc.settings import InferenceSettings
from modelstore.artifacts import ArtifactStore
from modelstore.manifest import Manifest

FEATURES = ("momentum_20d", "volatility_20d", "rsi_14d")
FEATURE_SET = "equities_test"


def rows(count: int, seed: int = 7) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, len(FEATURES)))


@cache
def ridge(level: float) -> bytes:
    """A linear model around a level, so that a prediction tells which model made it."""
    x = rows(64)
    return bytes(
        to_onnx(Ridge(alpha=1e-6).fit(x, x @ [0.1, -0.2, 0.3] + level), x[:1].astype(np.float32)).SerializeToString()
    )


@cache
def boosted() -> tuple[GradientBoostingRegressor, bytes]:
    x = rows(256)
    model = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(x, np.sin(x[:, 0]) + x[:, 1])
    return model, bytes(to_onnx(model, x[:1].astype(np.float32)).SerializeToString())


@cache
def table(*entries: float) -> bytes:
    """A model that looks its first feature up in a table: ONNX Runtime fails a whole batch over one row beyond it."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["rows", "first"], ["column"], axis=1),
            helper.make_node("Cast", ["column"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["prediction"], axis=0),
        ],
        "table",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(FEATURES)])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])],
        [
            numpy_helper.from_array(np.array(entries, np.float32), "table"),
            numpy_helper.from_array(np.array(0, np.int64), "first"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@cache
def looping() -> bytes:
    """A model that goes round a loop as often as the greatest first feature of its rows says; then their sum."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still_on"]), helper.make_node("Add", ["before", "one"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, []),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["rows", "first"], ["column"], axis=1),
            helper.make_node("ReduceMax", ["column"], ["greatest"], keepdims=0),
            helper.make_node("Cast", ["greatest"], ["rounds"], to=TensorProto.INT64),
            helper.make_node("Loop", ["rounds", "yes", "zero"], ["counted"], body=body),
            helper.make_node("Mul", ["counted", "zero"], ["nothing"]),
            helper.make_node("ReduceSum", ["rows", "axes"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "nothing"], ["prediction"]),
        ],
        "looping",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(FEATURES)])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None])],
        [
            numpy_helper.from_array(np.array(0, np.int64), "first"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def expected(level: float, row: Sequence[float]) -> float:
    """What `ridge(level)` predicts."""
    return float(np.dot(row, [0.1, -0.2, 0.3]) + level)


def register(
    home: Path,
    onnx: bytes,
    *,
    strategy: str = "momentum",
    name: str = "model",
    feature_set: str = FEATURE_SET,
    threshold: float = 0.0,
) -> str:
    """Store a model; returns its version."""
    manifest = Manifest(
        name=name,
        strategy=strategy,
        feature_set=feature_set,
        feature_names=FEATURES,
        prediction_unit="fraction",
        signal_threshold=threshold,
    )
    return ArtifactStore(home / "models").put(manifest, onnx).version


def settings(home: Path, redis_url: str, **others: object) -> InferenceSettings:
    values: dict[str, object] = {
        "home": home,
        "redis_url": redis_url,
        "inference_port": 0,
        "partitions": 4,
        "drain_grace_s": 1.0,
        "redis_wait_s": 10.0,
    }
    return InferenceSettings.model_validate(values | others)


@asynccontextmanager
async def replica(home: Path, redis_url: str, **others: object) -> AsyncIterator[Inference]:
    running = await build(settings(home, redis_url, **others))
    try:
        yield running
    finally:
        await running.stop()
