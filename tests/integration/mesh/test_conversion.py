"""docs/conversion.md, run as it is written, up to a prediction of the converted model on a mesh of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from tests.mesh import RunningMesh, running_mesh

PAGE = (Path(__file__).parents[3] / "docs" / "conversion.md").read_text()
_BIN = str(Path(sys.executable).parent)


def blocks(section: str) -> list[tuple[str, str]]:
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return re.findall(r"^```(python|sh)\n(.*?)^```$", text, re.M | re.S)


class Reader:
    """Someone who follows the page, in a folder of their own, with a mesh running."""

    def __init__(self, folder: Path, mesh: RunningMesh) -> None:
        self.folder = folder
        self.environment = {**mesh.environment, "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}"}

    def run(self, language: str, text: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=150, check=False
        )

    def does(self, language: str, text: str) -> str:
        done = self.run(language, text)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield Reader(tmp_path_factory.mktemp("reader"), mesh)


def test_a_trained_model_is_converted_registered_promoted_and_predicts_as_the_original(reader: Reader) -> None:
    train, convert, register, predict, python = blocks("From a trained model to a prediction")
    reader.does(*train)
    said = reader.does(*convert)
    model = joblib.load(reader.folder / "model.joblib")
    report = json.loads((reader.folder / "reversal-boosting" / "report.json").read_text())
    assert report["onnx_sha256"] in said
    assert report["verification"]["rows"] == 500
    assert report["opsets"] == {"ai.onnx": 18, "ai.onnx.ml": 3}

    reader.does(*register)
    assert "reversal" in reader.does(*predict)
    answer = json.loads(reader.does("sh", predict[1].replace("predict", "predict --json")))
    expected = model.predict(np.array([[0.5, -1.2, 0.1]], dtype=np.float32))[0]
    assert answer["prediction"] == pytest.approx(expected, rel=1e-4)
    (loaded,) = json.loads(reader.does("sh", "quantmesh models --json"))["models"]
    assert (loaded["name"], loaded["feature_names"], loaded["prediction_unit"]) == (
        "reversal-boosting",
        ["return_5d", "return_20d", "volume_z"],
        "fraction",
    )

    # From Python the same model is the same file.
    digest = reader.does(*python).split()[0]
    assert digest == report["onnx_sha256"]
    # Registered again, it is the same version.
    again = json.loads(reader.does("sh", "quantmesh models register reversal-boosting --json"))["model"]
    assert again["version"] == loaded["version"] == answer["model_version"]
    assert (again["onnx_sha256"], again["framework"][:12]) == (digest, "scikit-learn")


def test_an_int8_model_is_registered_like_any_other(reader: Reader) -> None:
    rows = np.random.default_rng(7).normal(size=(300, 3))
    np.savetxt(reader.folder / "sample.csv", rows, delimiter=",", header="return_5d,return_20d,volume_z", comments="")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net = MLPRegressor(hidden_layer_sizes=(64, 32), max_iter=60, random_state=0)
        net.fit(rows, rows[:, 0] - 0.5 * rows[:, 1])
    joblib.dump(net, reader.folder / "net.joblib")
    ((language, text),) = blocks("int8")
    assert "rank_correlation" in reader.does(language, text)
    report = json.loads((reader.folder / "net-int8" / "report.json").read_text())
    assert report["int8"]["int8_bytes"] == report["onnx_size_bytes"] < report["int8"]["float_bytes"]
    model = json.loads(reader.does("sh", "quantmesh models register net-int8 --json"))["model"]
    assert model["onnx_sha256"] == report["onnx_sha256"]


MANIFEST = b"""{
  "name": "m", "strategy": "s", "feature_set": "f", "feature_names": ["a"], "prediction_unit": "fraction",
  "trial_count": 1
}"""


@pytest.mark.parametrize(
    ("onnx", "manifest", "code", "said"),
    [
        (None, MANIFEST, 2, "is no file"),
        (b"", b"no JSON", 1, "is no manifest"),
        (b"", b'{"colour": "red"}', 1, "colour"),
        (b"no ONNX", MANIFEST, 1, "NOT_ONNX"),
        (b"no ONNX", MANIFEST.replace(b"fraction", b""), 1, "manifest.prediction_unit"),
    ],
)
def test_what_is_no_model_is_not_registered(
    reader: Reader, tmp_path: Path, onnx: bytes | None, manifest: bytes, code: int, said: str
) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest)
    if onnx is not None:
        (tmp_path / "model.onnx").write_bytes(onnx)
    done = reader.run("sh", f"quantmesh models register {tmp_path}")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
