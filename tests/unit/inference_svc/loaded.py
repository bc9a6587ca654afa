"""Models in memory without ONNX: a row's prediction is its sum plus a level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_svc.registry import LoadedModel, Model, Serving
from modelstore.manifest import Manifest


@dataclass
class Sum:
    level: float
    columns: int = 2
    calls: int = 0

    most_squares = 0.0

    def unfit(self, rows: NDArray[np.float64], /) -> NDArray[np.bool_] | None:
        return None

    def predict(self, rows: NDArray[np.float64], /) -> NDArray[np.float64]:
        self.calls += 1
        with np.errstate(over="ignore"):
            return np.asarray(rows.sum(axis=1) + self.level)


@dataclass
class Table:
    """A model that fails as a whole when the first value of any row is no index of its table."""

    table: tuple[float, ...]
    columns: int = 2

    most_squares = 0.0

    def unfit(self, rows: NDArray[np.float64], /) -> NDArray[np.bool_] | None:
        return None

    def predict(self, rows: NDArray[np.float64], /) -> NDArray[np.float64]:
        return np.asarray(np.array(self.table)[rows[:, 0].astype(int)])


def loaded(
    version: str,
    level: float = 0.0,
    *,
    columns: int = 2,
    feature_set: str = "set",
    strategy: str = "momentum",
    threshold: float = 0.0,
    model: Model | None = None,
) -> LoadedModel:
    manifest = Manifest(
        name=f"model-{version[:4]}",
        strategy=strategy,
        feature_set=feature_set,
        feature_names=tuple(f"f{n}" for n in range(columns)),
        prediction_unit="fraction",
        signal_threshold=threshold,
    )
    return LoadedModel(version, manifest, model or Sum(level, columns), 0)


def serving(
    strategy: str,
    generation: int = 1,
    *,
    previous: LoadedModel | None = None,
    champion: LoadedModel | None = None,
    challenger_version: str = "",
    challenger: LoadedModel | None = None,
) -> Serving:
    champion = champion or loaded("a" * 64, strategy=strategy)
    return Serving(strategy, generation, champion, previous, challenger_version, challenger)
