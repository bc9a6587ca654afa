"""Whether a row's prediction depends on its batch, by kind of model, and what it costs to score rows one by one.

`python -m bench.determinism`: for each model the rows (of 4,096) whose bits differ between a call of their own and
calls of 2 to 4,096 rows; whether, in a batch of one size, the place of a row or the content of the others matters; and
microseconds a row in calls of 32 and of one, through the session that serves. See ADR 7.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from inference_svc.determinism import predict_alone, runtime_identity
from modelstore.onnx_model import OnnxModel

COLUMNS = 17
ROWS = 4096
SIZES = (2, 3, 5, 8, 13, 16, 31, 32, 33, 64, 100, 128, 257, 1024, 4096)
TRIALS = 40


def _graph(nodes: list[Any], **constants: NDArray[Any]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


def _softmax(rng: np.random.Generator) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=1),
        helper.make_node("Mul", ["p", "x"], ["q"]),
        helper.make_node("ReduceSum", ["q", "axis"], ["y"], keepdims=1),
    ]
    return _graph(nodes, w=rng.normal(size=(COLUMNS, COLUMNS)).astype(np.float32), axis=np.array([1], np.int64))


def _gemm(rng: np.random.Generator) -> bytes:
    nodes, constants, before, width = [], {}, "x", COLUMNS
    for layer, (size, after) in enumerate([(512, "a"), (512, "b"), (1, "y")]):
        constants[f"w{layer}"] = (rng.normal(size=(width, size)) / np.sqrt(width)).astype(np.float32)
        constants[f"c{layer}"] = rng.normal(size=size).astype(np.float32)
        out = after if after == "y" else f"g{layer}"
        nodes.append(helper.make_node("Gemm", [before, f"w{layer}", f"c{layer}"], [out]))
        if after != "y":
            nodes.append(helper.make_node("Relu", [out], [after]))
        before, width = after, size
    return _graph(nodes, **constants)


def _quantising(rng: np.random.Generator) -> bytes:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    return _graph(nodes, w=rng.integers(-9, 9, size=(COLUMNS, 1)).astype(np.int8))


def models() -> dict[str, bytes]:
    """Models of each kind, as the converters make them."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, COLUMNS))
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=3000)
    boosted = GradientBoostingRegressor(n_estimators=200, max_depth=5, subsample=0.3, random_state=0)
    fitted: dict[str, Any] = {
        "gradient boosting, 200 trees": boosted,
        "random forest, 100 trees": RandomForestRegressor(100, max_depth=8, random_state=0),
        "scaler and ridge": make_pipeline(StandardScaler(), Ridge()),
        "scaler and MLP 64x32": make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(64, 32), max_iter=15)),
        "SVR": SVR(C=0.1),
        "5 nearest neighbours": KNeighborsRegressor(5),
    }
    found = {
        name: bytes(to_onnx(model.fit(x, y), x[:1].astype(np.float32)).SerializeToString())
        for name, model in fitted.items()
    }
    return found | {"Gemm 512x512": _gemm(rng), "softmax": _softmax(rng), "dynamic quantisation": _quantising(rng)}


def differing(model: OnnxModel) -> float:
    """Share of rows whose bits differ between a call of their own and calls of other sizes, at the worst size."""
    x = np.random.default_rng(3).normal(size=(ROWS, COLUMNS))
    alone = predict_alone(model, x)
    worst = 0.0
    for size in SIZES:
        together = np.concatenate([model.predict(x[at : at + size]) for at in range(0, ROWS - size + 1, size)])
        worst = max(worst, float(np.mean(together != alone[: len(together)])))
    return worst


def within_a_batch(model: OnnxModel) -> tuple[float, float]:
    """In batches of one size: how often the place of a row matters, and how often what the others hold does."""
    rng = np.random.default_rng(5)
    place = content = trials = 0
    for size in (2, 3, 5, 8, 13, 16, 31, 32, 33, 64, 100, 257):
        for _ in range(TRIALS):
            row = rng.normal(size=COLUMNS)
            here, there = rng.integers(size, size=2)
            one, other, moved = (rng.normal(size=(size, COLUMNS)) * scale for scale in (1.0, 10.0, 1.0))
            one[here] = other[here] = moved[there] = row
            prediction = model.predict(one)[here]
            content += int(model.predict(other)[here] != prediction)
            place += int(model.predict(moved)[there] != prediction)
            trials += 1
    return place / trials, content / trials


def microseconds(score: Callable[[], object], rows: int) -> float:
    """Median time of a row, microseconds."""
    times = []
    for _ in range(30):
        started = time.perf_counter()
        score()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2] / rows * 1e6


def main() -> None:
    """Print the table."""
    print(runtime_identity())
    heads = ("bits differ", "by place", "by content", "µs, call of 32", "µs, alone")
    print(f"{'':30}" + "".join(f"{head:>16}" for head in heads))
    for name, onnx in models().items():
        model = OnnxModel.load(onnx)
        batch = np.random.default_rng(0).normal(size=(32, COLUMNS))
        place, content = within_a_batch(model)
        cells = (
            f"{differing(model):.0%}",
            f"{place:.0%}",
            f"{content:.0%}",
            f"{microseconds(lambda model=model, batch=batch: model.predict(batch), 32):.2f}",
            f"{microseconds(lambda model=model, batch=batch: predict_alone(model, batch), 32):.2f}",
        )
        print(f"{name:30}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
