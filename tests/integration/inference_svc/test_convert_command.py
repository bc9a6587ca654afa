"""`quantmesh convert`, run as a user runs it: what it writes, prints and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import Ridge

from modelstore.onnx_model import OnnxModel

ROWS = np.random.default_rng(7).normal(size=(100, 3)).astype(np.float32)
TARGET = ROWS @ np.array([0.1, -0.2, 0.3])
DESCRIBED = ("--name", "ridge", "--strategy", "momentum", "--feature-set", "equities_test", "--unit", "fraction")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    joblib.dump(Ridge(alpha=1e-3).fit(ROWS, TARGET), tmp_path / "model.joblib")
    wild = GaussianProcessRegressor(RBF(10.0), alpha=1e-8, optimizer=None)  # sums of large numbers that cancel out
    joblib.dump(wild.fit(ROWS, TARGET), tmp_path / "wild.joblib")
    np.save(tmp_path / "rows.npy", ROWS)
    np.save(tmp_path / "equal.npy", np.zeros((10, 3)))
    return tmp_path


def quantmesh(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from runtime.cli import main; main()", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def converted(folder: Path, *arguments: str, model: str = "model.joblib") -> subprocess.CompletedProcess[str]:
    return quantmesh(
        folder, "convert", model, "--trust-pickle", "--rows", "rows.npy", "--features", "a,b, c", *DESCRIBED, *arguments
    )


def test_it_writes_a_model_with_all_that_was_said_of_it(folder: Path) -> None:
    said = converted(
        folder,
        *("--signal-threshold", "0.01", "--training-cutoff", "2018-12-31T21:00:00Z", "--seed", "18446744073709551615"),
        *("--trials", "12", "--metric", "train_r2=0.5", "--code-version", "abc", "--training-data-sha256", "ab" * 32),
        *("--out", "there/and/here", "--json"),
    )
    assert said.returncode == 0, said.stderr
    report = json.loads(said.stdout)
    here = folder / "there" / "and" / "here"
    assert json.loads((here / "report.json").read_text()).items() <= report.items()
    assert json.loads((here / "manifest.json").read_text()) == {
        "name": "ridge",
        "strategy": "momentum",
        "feature_set": "equities_test",
        "feature_names": ["a", "b", "c"],
        "prediction_unit": "fraction",
        "signal_threshold": 0.01,
        "framework": report["framework"],
        "training_data_sha256": "ab" * 32,
        "training_cutoff": "2018-12-31T21:00:00Z",
        "code_version": "abc",
        "seed": "18446744073709551615",
        "trial_count": 12,
        "metrics": {"train_r2": 0.5},
    }
    np.testing.assert_allclose(OnnxModel.load((here / "model.onnx").read_bytes()).predict(ROWS), TARGET, atol=1e-4)


def test_people_get_tables_with_the_figures(folder: Path) -> None:
    said = converted(folder)
    assert said.returncode == 0, said.stderr
    for word in ("onnx_sha256", "100 rows of 3 float32 features", "prediction", "max_abs_error", "ai.onnx"):
        assert word in said.stdout
    assert (folder / "ridge" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "model", "reason"),
    [
        ((), "wild.joblib", "PARITY_MISMATCH"),
        (("--features", "a,b"), "model.joblib", "SAMPLE_ROWS"),
        (("--features", "a,b,b"), "model.joblib", "INVALID_FIELD"),
        (("--strategy", "Momentum!"), "model.joblib", "INVALID_FIELD"),
        (("--int8", "dynamic"), "model.joblib", "NOTHING_TO_QUANTISE"),
        (("--rows", "gone.npy"), "model.joblib", "UNREADABLE_FILE"),
        ((), "rows.npy", "UNREADABLE_FILE"),
    ],
)
def test_a_refusal_says_why_and_writes_nothing(
    folder: Path, arguments: tuple[str, ...], model: str, reason: str
) -> None:
    said = converted(folder, "--json", *arguments, model=model)
    assert said.returncode == 1, said.stdout + said.stderr
    error = json.loads(said.stdout)["error"]
    assert error["reason"] == reason
    assert error["message"] in said.stderr
    assert not (folder / "ridge").exists()


def test_a_pickle_has_to_be_trusted(folder: Path) -> None:
    said = quantmesh(folder, "convert", "model.joblib", "--rows", "rows.npy", *DESCRIBED)
    assert said.returncode == 1
    assert "runs whatever code its author put in" in said.stderr


def test_wrong_usage_is_told(folder: Path) -> None:
    assert converted(folder, "--training-cutoff", "yesterday").returncode == 2
    assert converted(folder, "--metric", "train_r2").returncode == 2
    assert quantmesh(folder, "convert", "model.joblib").returncode == 2


def test_rows_that_tell_nothing_are_warned_of(folder: Path) -> None:
    said = converted(folder, "--rows", "equal.npy")
    assert said.returncode == 0, said.stderr
    assert "little was verified" in said.stderr


_CONVERTS = """
import joblib, numpy, sys
from inference_svc.conversion import convert
from modelstore.manifest import Manifest
convert(joblib.load("model.joblib"), numpy.load("rows.npy"), manifest=Manifest("m", "s", "f", ("a", "b", "c"), "u"))
print({"torch", "tensorflow", "keras", "tf2onnx", "lightgbm", "xgboost", "onnxmltools"} & set(sys.modules))
print([name for name in sys.modules if name.startswith("quantmesh")])
"""


def test_no_framework_and_no_generated_code_is_imported_for_a_model_of_another(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _CONVERTS], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "[]"]
