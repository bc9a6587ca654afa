"""Frameworks are imported when one of their models is converted, and never to find out whether it is one of theirs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from inference_svc.conversion.errors import MissingFrameworkError

EXTRAS = {
    "torch": "torch",
    "onnxscript": "torch",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "tf2onnx": "tensorflow",
    "lightgbm": "boosting",
    "xgboost": "boosting",
    "onnxmltools": "boosting",
    "pyarrow": "frames",
    "pandas": "frames",
}
"""Top-level module → the extra of quantmesh that brings it."""


def require(module: str) -> ModuleType:
    """Import a framework's module. Raises MissingFrameworkError, which names the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        raise MissingFrameworkError(root, EXTRAS[root], str(error)) from error


def roots(model: object) -> set[str]:
    """Top-level packages of an object's classes: what it is, without an import of anything."""
    return {each.__module__.partition(".")[0] for each in type(model).__mro__}


def feature_names_of(model: Any) -> tuple[str, ...]:
    """The names that a scikit-learn estimator or a booster was fitted with; empty when it saw none."""
    known = getattr(model, "feature_names_in_", None)  # estimators
    if known is None:
        known = getattr(model, "feature_names", None)  # XGBoost's Booster
    if known is None and callable(getattr(model, "feature_name", None)):
        known = model.feature_name()  # LightGBM's
    names = () if known is None else tuple(str(each) for each in known)
    # LightGBM makes these up when it is given none.
    return () if names == tuple(f"Column_{number}" for number in range(len(names))) else names


@contextmanager
def quietly() -> Iterator[None]:
    """Silence what exporters say to their own developers: whether the result is right is measured, not read.

    The logs and warnings of the whole process are silent meanwhile: exporters use loggers of many names.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
