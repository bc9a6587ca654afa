"""Saved models and rows: what is not trusted is not loaded, and what cannot be read is told by name."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from inference_svc.conversion.errors import SampleRowsError
from inference_svc.conversion.files import load_model, read_rows
from runtime.errors import FailedPreconditionError, InvalidInputError, QuantmeshError

ROWS = np.array([[1.0, 2.0], [3.0, 4.5]])


class Trap:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pickle", "model.pt2", "MODEL.PKL"])
def test_a_pickle_is_not_loaded_without_trust(tmp_path: Path, name: str) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(FailedPreconditionError, match="--trust-pickle") as caught:
        load_model(tmp_path / name)
    assert caught.value.reason == "UNTRUSTED_PICKLE"
    assert not sprung.exists()


def test_the_trap_is_one(tmp_path: Path) -> None:
    """The control: with trust, what a pickle holds does run."""
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    load_model(tmp_path / "model.pkl", trust_pickle=True)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("dump", [joblib.dump, lambda model, path: path.write_bytes(pickle.dumps(model))])
def test_a_trusted_pickle_is_loaded(tmp_path: Path, dump: Any) -> None:
    path = tmp_path / "model.joblib"
    dump(Ridge().fit(ROWS, [1.0, 2.0]), path)
    assert isinstance(load_model(path, trust_pickle=True), Ridge)


@pytest.mark.parametrize(
    ("file", "module", "extra"),
    [
        ("model.pt2", "torch", "torch"),
        ("model.keras", "keras", "tensorflow"),
        ("saved", "tensorflow", "tensorflow"),
        ("model.txt", "lightgbm", "boosting"),
        ("model.json", "xgboost", "boosting"),
        ("model.ubj", "xgboost", "boosting"),
        ("pickled.pkl", "lightgbm", "boosting"),
    ],
)
def test_a_framework_that_is_not_there_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, module: str, extra: str
) -> None:
    path = tmp_path / file
    if file == "saved":
        path.mkdir()
        (path / "saved_model.pb").touch()
    else:
        path.write_bytes(b"clightgbm.sklearn\nLGBMRegressor\n.")  # a pickle that imports it
    monkeypatch.setitem(sys.modules, module, None)  # as it is where it is not installed
    with pytest.raises(FailedPreconditionError) as caught:
        load_model(path, trust_pickle=True)
    assert caught.value.reason == "MISSING_FRAMEWORK"
    assert f"pip install 'quantmesh[{extra}]'" in str(caught.value)
    assert caught.value.metadata == {"module": module, "extra": extra}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("gone.pkl", None, "does not exist"),
        ("model.bin", b"", "none of .joblib"),
        ("model.pt", b"", r"torch\.export\.save"),
        ("model.pkl", b"nothing", "model.pkl: "),
        ("folder", "folder", "without saved_model.pb"),
    ],
)
def test_an_unreadable_model_is_told_by_name(tmp_path: Path, file: str, content: Any, said: str) -> None:
    path = tmp_path / file
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=said) as caught:
        load_model(path, trust_pickle=True)
    assert caught.value.reason == "UNREADABLE_FILE"


def test_rows_of_npy_have_no_names(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    rows, names = read_rows(tmp_path / "rows.npy")
    assert names == ()
    np.testing.assert_array_equal(rows, ROWS)


def test_columns_of_csv_go_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("symbol,b,a\nAAPL,2,1\n\nMSFT,4.5,3\n")
    rows, names = read_rows(path, ("a", "b"))
    assert names == ("a", "b")
    np.testing.assert_array_equal(rows, ROWS)
    path.write_text("\ufeffa,b\n1,2\n3,4.5\n")
    assert read_rows(path)[1] == ("a", "b")


@pytest.mark.parametrize(
    ("file", "content", "names", "reason"),
    [
        ("gone.csv", None, (), "UNREADABLE_FILE"),
        ("rows.xlsx", b"", (), "UNREADABLE_FILE"),
        ("rows.csv", b"", (), "UNREADABLE_FILE"),
        ("rows.csv", b"\xff\xfe\x00", (), "UNREADABLE_FILE"),
        ("rows.csv", b"a,b\n1,x\n", (), "SAMPLE_ROWS"),
        ("rows.csv", b"a,b\n1\n", (), "SAMPLE_ROWS"),
        ("rows.csv", b"a,b\n1,2\n", ("a", "c"), "FEATURE_NAMES_MISMATCH"),
        ("rows.npy", b"nothing", (), "UNREADABLE_FILE"),
    ],
)
def test_unreadable_rows_are_told_by_name(
    tmp_path: Path, file: str, content: bytes | None, names: tuple[str, ...], reason: str
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(QuantmeshError) as caught:
        read_rows(tmp_path / file, names)
    assert caught.value.reason == reason


def test_pickled_rows_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInputError):
        read_rows(tmp_path / "rows.npy")
    assert not (tmp_path / "sprung").exists()


def test_parquet_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FailedPreconditionError, match=r"quantmesh\[frames\]"):
        read_rows(tmp_path / "rows.parquet")


def test_rows_that_are_no_numbers_are_found_when_they_are_used(tmp_path: Path) -> None:
    from inference_svc.conversion.verify import sample

    np.save(tmp_path / "rows.npy", np.array([["a", "b"], ["c", "d"]]))
    with pytest.raises(SampleRowsError):
        sample(read_rows(tmp_path / "rows.npy")[0])
