"""Saved models and sample rows, as files: what each is, and what reading it may do."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_svc.conversion.errors import (
    FEATURE_NAMES_MISMATCH,
    UNREADABLE_FILE,
    UNTRUSTED_PICKLE,
    MissingFrameworkError,
    SampleRowsError,
)
from inference_svc.conversion.frameworks import EXTRAS, quietly, require
from runtime.errors import FailedPreconditionError, InvalidInputError

_PICKLES = (".joblib", ".pkl", ".pickle", ".pt2")
MODEL_FILES = (
    ".joblib, .pkl (scikit-learn, and the estimators of LightGBM and XGBoost), .pt2 (torch.export.save), .keras, the "
    "folder of a SavedModel, .txt (LightGBM's save_model), .json and .ubj (XGBoost's save_model)"
)
ROW_FILES = ".npy, .csv (its first line names the columns) and .parquet"


def load_model(path: Path, trust_pickle: bool = False) -> Any:
    """Load a saved model, an object that `convert` takes.

    A pickle (`.joblib`, `.pkl`, and a `.pt2`, which holds some) runs whatever its author put in, so it is loaded only
    if `trust_pickle` says that the author is trusted. A SavedModel is a program of TensorFlow's operators, which can
    read and write files. Raises FailedPreconditionError (UNTRUSTED_PICKLE), InvalidInputError (UNREADABLE_FILE),
    MissingFrameworkError.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise _unreadable(path, "does not exist")
    if suffix in _PICKLES and not trust_pickle:
        raise FailedPreconditionError(
            f"{path.name} holds pickles, and to load one runs whatever code its author put in: if you made it, or "
            "trust who did, say so with --trust-pickle",
            reason=UNTRUSTED_PICKLE,
            field="model",
        )
    try:
        with quietly():
            return _load(path, suffix)
    except (MissingFrameworkError, InvalidInputError):
        raise
    except ModuleNotFoundError as error:  # a pickle's
        root = (error.name or "").partition(".")[0]
        if root in EXTRAS:
            raise MissingFrameworkError(root, EXTRAS[root], str(error)) from error
        raise _unreadable(path, f"needs a module that is not here: {error}") from error
    except Exception as error:  # every format has errors of its own
        raise _unreadable(path, f"{type(error).__name__}: {str(error).strip()[:300]}") from error


def _load(path: Path, suffix: str) -> Any:
    if path.is_dir():
        if not (path / "saved_model.pb").exists():
            raise _unreadable(path, "is a folder without saved_model.pb")
        return require("tensorflow").saved_model.load(str(path))
    if suffix == ".pt2":
        return require("torch").export.load(path)
    if suffix in _PICKLES:
        return require("joblib").load(path)
    if suffix == ".keras":
        return require("keras").saving.load_model(path, compile=False)
    if suffix == ".txt":
        return require("lightgbm").Booster(model_file=str(path))
    if suffix in (".json", ".ubj"):
        return require("xgboost").Booster(model_file=str(path))
    if suffix in (".pt", ".pth", ".ts"):
        raise _unreadable(
            path, "is weights, a pickled module or TorchScript: torch.export.save(torch.export.export(…), 'model.pt2')"
        )
    raise _unreadable(path, f"is none of {MODEL_FILES}")


def read_rows(path: Path, names: Sequence[str] = ()) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read sample rows [N, F], and the names of the columns (empty for `.npy`, which has none).

    With `names`, the columns of those names are taken, in their order. Raises InvalidInputError (UNREADABLE_FILE;
    FEATURE_NAMES_MISMATCH for a name that is not there), SampleRowsError, MissingFrameworkError.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise _unreadable(path, "is no file")
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False), ()
        if suffix == ".csv":
            found, rows = _read_csv(path)
        elif suffix == ".parquet":
            parquet = require("pyarrow.parquet")
            found = tuple(parquet.read_schema(path).names)
            rows = parquet.read_table(path, columns=[name for name in names if name in found] or None)
        else:
            raise _unreadable(path, f"is none of {ROW_FILES}")
    except (MissingFrameworkError, InvalidInputError):
        raise
    except Exception as error:  # every format has errors of its own
        raise _unreadable(path, str(error)[:300]) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise InvalidInputError.of_field(
            "feature_names", f"{path.name} has no column {', '.join(missing[:5])}", reason=FEATURE_NAMES_MISMATCH
        )
    wanted = tuple(names) or found
    if isinstance(rows, list):
        return _of_text(path, rows, [found.index(name) for name in wanted]), wanted
    return np.column_stack([np.asarray(rows.column(name)) for name in wanted]), wanted


def _read_csv(path: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines:
        raise _unreadable(path, "is empty")
    return tuple(name.strip() for name in lines[0]), lines[1:]


def _of_text(path: Path, lines: list[list[str]], columns: list[int]) -> NDArray[np.float64]:
    try:
        return np.array([[float(line[column]) for column in columns] for line in lines])
    except (ValueError, IndexError) as error:
        raise SampleRowsError(f"{path.name} has a line without a number for each feature: {error}") from error


def _unreadable(path: Path, why: str) -> InvalidInputError:
    return InvalidInputError(f"{path}: {why}", reason=UNREADABLE_FILE, field="file")
