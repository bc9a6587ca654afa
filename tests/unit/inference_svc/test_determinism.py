"""A row alone: nothing but the row and the model decides its bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from inference_svc.determinism import predict_alone, runtime_identity
from modelstore.onnx_model import OnnxModel

COLUMNS = 17


def _fitted(estimator: Callable[[], object]) -> bytes:
    x = np.random.default_rng(1).normal(size=(300, COLUMNS))
    model = estimator().fit(x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2])  # type: ignore[attr-defined]
    return bytes(to_onnx(model, x[:1].astype(np.float32)).SerializeToString())


def _graph(nodes: list[object], *constants: tuple[str, NDArray[np.generic]]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def _softmax() -> bytes:
    weights = np.random.default_rng(0).normal(size=(COLUMNS, COLUMNS)).astype(np.float32)
    return _graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["s"]),
            helper.make_node("Softmax", ["s"], ["p"], axis=1),
            helper.make_node("Mul", ["p", "x"], ["q"]),
            helper.make_node("ReduceSum", ["q", "axis"], ["y"], keepdims=1),
        ],
        ("w", weights),
        ("axis", np.array([1], np.int64)),
    )


def _quantising() -> bytes:
    """A graph as `quantize_dynamic` makes them: the scale of a row is that of its batch."""
    return _graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "scale"], ["y"]),
        ],
        ("w", np.random.default_rng(0).integers(-9, 9, size=(COLUMNS, 1)).astype(np.int8)),
    )


MODELS = {
    "boosting": lambda: _fitted(lambda: GradientBoostingRegressor(n_estimators=40, random_state=0)),
    "linear": lambda: _fitted(lambda: make_pipeline(StandardScaler(), Ridge())),
    "svr": lambda: _fitted(lambda: SVR(C=0.1)),
    "knn": lambda: _fitted(lambda: KNeighborsRegressor(5)),
    "softmax": _softmax,
    "quantising": _quantising,
}


def _bits(values: NDArray[np.float64]) -> list[int]:
    return [int(bits) for bits in np.ascontiguousarray(values).view(np.uint64)]


@pytest.mark.parametrize("name", MODELS)
def test_a_row_alone_has_the_same_bits_whatever_it_comes_with(name: str) -> None:
    onnx = MODELS[name]()
    model = OnnxModel.load(onnx)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, COLUMNS))
    known = _bits(predict_alone(model, x))
    order = rng.permutation(200)
    assert _bits(predict_alone(model, x[order])) == [known[index] for index in order]
    for size in (1, 2, 7, 32, 129):
        among = rng.normal(scale=5.0, size=(size, COLUMNS))
        row, place = int(rng.integers(200)), int(rng.integers(size))
        among[place] = x[row]
        assert _bits(predict_alone(model, among))[place] == known[row]
    assert _bits(predict_alone(OnnxModel.load(onnx), x)) == known, "and in another session"


def test_without_it_a_row_may_depend_on_the_others() -> None:
    """Why there is a deterministic mode: were this to pass some day, it could go."""
    model = OnnxModel.load(_quantising())
    x = np.random.default_rng(3).normal(size=(32, COLUMNS))
    alone = predict_alone(model, x)
    assert _bits(model.predict(x)) != _bits(alone)
    x[1:] *= 100.0
    assert model.predict(x)[0] != pytest.approx(alone[0], rel=1e-3)


def test_the_runtime_is_named_with_its_version_and_the_machine() -> None:
    words = runtime_identity().split()
    assert words[0] == "onnxruntime"
    assert words[1][0].isdigit()
    assert len(words) >= 3
    assert len(runtime_identity()) <= 128
