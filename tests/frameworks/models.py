"""What the tests of all frameworks share: rows, and the checks that hold for every conversion."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inference_svc.conversion import Conversion, convert
from inference_svc.conversion.graph import Graph
from modelstore.onnx_model import OnnxModel
from tests.unit.inference_svc.conversion.graphs import manifest, rows

X: NDArray[np.float32] = rows(400, 6).astype(np.float32)
UNSEEN: NDArray[np.float32] = rows(100, 6, seed=8).astype(np.float32)
Y: NDArray[np.float64] = 2.0 * X[:, 0] + np.sin(X[:, 1]) + 0.1 * X[:, 2]
SIGN: NDArray[np.int64] = (Y > 0).astype(np.int64)
THREE: NDArray[np.int64] = np.digitize(Y, [-1.0, 1.0])
NAMES = ("return_5d", "return_20d", "volatility", "rsi", "volume_z", "beta")
# Values that float32 barely tells apart, many of them exactly where a tree splits.
COARSE: NDArray[np.float64] = np.round(rows(3000, 6, seed=3) * 4.0) / 3.0 + 1e5
COARSE_TARGET: NDArray[np.float64] = COARSE[:, 0] % 1.0 + np.sin(COARSE[:, 1])

_PAGE = (Path(__file__).parents[2] / "docs" / "conversion.md").read_text()
QUANTMESH = str(Path(sys.executable).with_name("quantmesh"))


def converted(model: Any, features: Any = X, **others: Any) -> Conversion:
    """Convert twice: the bytes are the same, pinned, and of the form that can be served."""
    described = manifest(features.shape[1])
    conversion = convert(model, features, manifest=described, **others)
    assert convert(model, features, manifest=described, **others).onnx == conversion.onnx
    stored = onnx.load_from_string(conversion.onnx)
    assert {each.domain: each.version for each in stored.opset_import}.items() <= {"": 18, "ai.onnx.ml": 3}.items()
    assert (stored.ir_version, stored.producer_name, stored.graph.name) == (8, "", "model")
    assert all(
        each.type.tensor_type.shape.dim[0].dim_param == "rows" for each in (*stored.graph.input, *stored.graph.output)
    )
    return conversion


def served(conversion: Conversion, features: NDArray[np.float32] = UNSEEN) -> NDArray[np.float64]:
    """Predictions of rows that were not verified on, as inference makes them."""
    return OnnxModel.load(conversion.onnx).predict(features)


def probabilities(conversion: Conversion, features: NDArray[np.float32] = UNSEEN) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels and probabilities of rows that were not verified on."""
    label, found = Graph(conversion.onnx)(features)
    return label, found


def run_page(section: str, folder: Path) -> None:
    """Run the blocks of one framework in docs/conversion.md, after those that they stand on."""
    shared, text = (
        re.findall(rf"^{heading}$(.*?)(?=^##|\Z)", _PAGE, re.M | re.S)[0]
        for heading in ("## Frameworks", f"### {section}")
    )
    program = "\n".join(
        block for part in (shared, text) for block in re.findall(r"^```python\n(.*?)^```$", part, re.M | re.S)
    )
    assert "convert(" in program
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run_command(model: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Convert a saved model by the command, on rows of three features; returns its report."""
    np.save(folder / "rows.npy", rows(100, 3).astype(np.float32))
    described = ("--name", "m", "--strategy", "s", "--feature-set", "f", "--unit", "fraction", "--features", "a,b,c")
    done = subprocess.run(
        [QUANTMESH, "convert", model, "--rows", "rows.npy", *described, "--json", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert OnnxModel.load((folder / "m" / "model.onnx").read_bytes()).columns == 3
    return report
