"""What is asked of every server: one model, some rows, the right answers, and requests in each protocol."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import skl2onnx
import sklearn
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingRegressor

from bench.load.build import cache

TREES, DEPTH, FEATURES = 200, 5, 50
STATE, STEPS = 1024, 40
BATCH_ROWS = 128
SINGLE, BATCHES = 16, 4
"""How many different requests are sent in turn: an answer that went to the wrong caller shows."""

_RECIPE = f"{TREES} {DEPTH} {FEATURES} 1 {sklearn.__version__} {skl2onnx.__version__}"

Rows = NDArray[np.float32]
Predictions = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Workload:
    """The same for all. Rows are float32, so that no protocol loses anything of them."""

    onnx: Path
    rows: Rows
    """Shape [SINGLE, FEATURES]."""
    answers: Predictions
    """Of each row."""
    batches: NDArray[np.float32]
    """Shape [BATCHES, BATCH_ROWS, FEATURES]."""
    batch_answers: Predictions
    """Shape [BATCHES, BATCH_ROWS]."""


def session(onnx: Path) -> ort.InferenceSession:
    """ONNX Runtime as every server here runs it: one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])


def make() -> Workload:
    """Train the model, or take it from the cache; what it says does not matter, what it costs does."""
    onnx = cache() / f"bench-model-{hashlib.sha256(_RECIPE.encode()).hexdigest()[:12]}.onnx"
    random = np.random.default_rng(1)
    if not onnx.exists():
        onnx.parent.mkdir(parents=True, exist_ok=True)
        made = onnx.with_suffix(".new")
        made.write_bytes(_train(random))
        made.replace(onnx)
    return _asked_of(onnx)


def slow(folder: Path) -> Workload:
    """The same rows for a model of which a row costs hundreds of times as much: a recurrent network of many steps."""
    onnx = folder / "slow.onnx"
    onnx.write_bytes(_recurrent(np.random.default_rng(3)))
    return _asked_of(onnx)


def _asked_of(onnx: Path) -> Workload:
    random = np.random.default_rng(2)
    rows = random.standard_normal((SINGLE, FEATURES), dtype=np.float32)
    batches = random.standard_normal((BATCHES, BATCH_ROWS, FEATURES), dtype=np.float32)
    model = session(onnx)
    name = model.get_inputs()[0].name

    def predict(rows: Rows) -> Predictions:
        values: Predictions = model.run(None, {name: rows})[0].ravel().astype(np.float64)
        return values

    return Workload(onnx, rows, predict(rows), batches, np.stack([predict(batch) for batch in batches]))


def _train(random: np.random.Generator) -> bytes:
    rows = random.standard_normal((2000, FEATURES))
    labels = rows[:, 0] * rows[:, 1] + random.standard_normal(2000)
    fitted = GradientBoostingRegressor(n_estimators=TREES, max_depth=DEPTH, random_state=1).fit(rows, labels)
    return bytes(skl2onnx.to_onnx(fitted, rows[:1].astype(np.float32)).SerializeToString())


def _recurrent(random: np.random.Generator) -> bytes:
    shapes = {"in": (FEATURES, STATE), "step": (STATE, STATE), "out": (STATE, 1)}
    nodes, state = [], "rows"
    for step, weights in enumerate(["in", *["step"] * STEPS]):
        nodes.append(helper.make_node("MatMul", [state, weights], [f"product{step}"]))
        nodes.append(helper.make_node("Tanh", [f"product{step}"], [f"state{step}"]))
        state = f"state{step}"
    nodes.append(helper.make_node("MatMul", [state, "out"], ["prediction"]))
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(random.standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5), name)
            for name, shape in shapes.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def write_payloads(path: Path, payloads: Iterable[bytes]) -> Path:
    """Requests as `grpc_load` reads them."""
    path.write_bytes(b"".join(struct.pack("=I", len(payload)) + payload for payload in payloads))
    return path


def write_numbers(path: Path, numbers: Iterable[float]) -> Path:
    """The right answers as `grpc_load` reads them."""
    path.write_bytes(np.asarray(list(numbers), np.float64).tobytes())
    return path
