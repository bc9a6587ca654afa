"""Train two models on the years before a cut-off, with point-in-time features, and convert them to ONNX.

The label of a row (session t, symbol) is the symbol's return over (t, t+5] less the mean of all symbols: what it earns
against the others. A row is purged when its label reaches into the cut-off: what it would be judged by was not known
there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from examples.us_equities.panel import Panel
from feature_svc.features import FEATURE_NAMES, compute_panel
from modelstore.onnx_model import OnnxModel

HORIZON = 5
"""Sessions ahead that a prediction looks."""

SEED = 7
_PARITY = 1e-4
"""Largest difference between a model and its ONNX form, as a share of the predictions' standard deviation."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model, ready to register."""

    name: str
    onnx: bytes
    signal_threshold: float
    training_data_sha256: str
    training_cutoff_us: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Rows with all features known: X [rows, features], y [rows] as a fraction of price."""

    rows: NDArray[np.float64]
    labels: NDArray[np.float64]
    cutoff_us: int

    @property
    def sha256(self) -> str:
        """Fingerprint of rows and labels."""
        return hashlib.sha256(self.rows.tobytes() + self.labels.tobytes()).hexdigest()


def relative_forward_returns(closes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return over the next HORIZON sessions less the mean of all symbols; NaN in the last HORIZON sessions.

    Shapes [sessions, symbols] → [sessions, symbols].
    """
    returns = np.full_like(closes, np.nan)
    returns[:-HORIZON] = closes[HORIZON:] / closes[:-HORIZON] - 1.0
    mean: NDArray[np.float64] = returns.mean(axis=1, keepdims=True)
    return returns - mean


def training_set(panel: Panel, first: int, cutoff: int) -> TrainingSet:
    """Rows of the sessions [first, cutoff) whose labels end before the session `cutoff`.

    Nothing at or after the cut-off is looked at: the panel is cut there before anything is computed.
    """
    known = panel.rows(0, cutoff)
    rows = compute_panel(known.closes)[first:]
    labels = relative_forward_returns(known.closes)[first:]
    usable = np.isfinite(rows).all(axis=2) & np.isfinite(labels)
    return TrainingSet(rows[usable], labels[usable], int(known.available_at_us[-1]))


_CONFIGURATIONS: dict[str, Callable[[], Any]] = {
    "ridge": lambda: make_pipeline(StandardScaler(), Ridge(alpha=100.0)),
    "boosting": lambda: GradientBoostingRegressor(
        n_estimators=60,
        learning_rate=0.05,
        max_depth=3,
        min_samples_leaf=200,
        subsample=0.2,
        max_features=5,
        random_state=SEED,
    ),
}
TRIAL_COUNT = len(_CONFIGURATIONS)
"""Every configuration that was tried: it goes into the manifests, since selection is paid for in significance."""


def train_all(data: TrainingSet) -> list[TrainedModel]:
    """Fit each configuration and convert it. Raises RuntimeError when an ONNX model answers differently."""
    return [_train(name, make(), data) for name, make in _CONFIGURATIONS.items()]


def _train(name: str, model: Any, data: TrainingSet) -> TrainedModel:
    model.fit(data.rows, data.labels)
    onnx = _convert(model, data.rows)
    predictions = model.predict(data.rows)
    explained = 1.0 - np.var(data.labels - predictions) / np.var(data.labels)
    return TrainedModel(
        name=f"us-equities-{name}",
        onnx=onnx,
        # Half of the signals are taken: those further from zero than the median of the training years.
        signal_threshold=float(np.median(np.abs(predictions))),
        training_data_sha256=data.sha256,
        training_cutoff_us=data.cutoff_us,
        metrics={"train_r2": float(explained), "train_rows": float(len(data.labels))},
    )


def _convert(model: Any, rows: NDArray[np.float64]) -> bytes:
    sample = rows[:: max(1, len(rows) // 2000)]
    onnx: bytes = to_onnx(model, sample[:1].astype(np.float32)).SerializeToString()
    expected = model.predict(sample.astype(np.float32))
    difference = np.abs(OnnxModel.load(onnx).predict(sample) - expected).max() / np.std(expected)
    if not difference < _PARITY:
        raise RuntimeError(f"ONNX and scikit-learn differ by {difference:.2g} standard deviations")
    return onnx


FRAMEWORK = f"scikit-learn {sklearn.__version__}"
__all__ = ["FEATURE_NAMES", "FRAMEWORK", "HORIZON", "SEED", "TRIAL_COUNT", "TrainedModel", "train_all", "training_set"]
