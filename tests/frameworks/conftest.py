"""Conversions of frameworks that are extras: `make test-frameworks` runs them, each file in a process of its own.

They are no part of `make test`. Where a framework is not installed they fail; they are never skipped.
"""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_configure(config: pytest.Config) -> None:
    # The frameworks warn their own developers while a test makes a model. A warning of ours is an error, as elsewhere.
    for module in ("torch", "tensorflow", "keras", "lightgbm", "xgboost", "sklearn", "copyreg", "numpy"):
        config.addinivalue_line("filterwarnings", rf"ignore:::{module}(\..*)?")
