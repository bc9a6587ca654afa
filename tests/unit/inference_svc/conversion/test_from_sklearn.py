"""scikit-learn models answer the same as ONNX; what cannot be converted is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from inference_svc.conversion import Conversion, convert
from inference_svc.conversion.errors import ParityError, UnsupportedModelError
from inference_svc.conversion.graph import Graph
from modelstore.onnx_model import OnnxModel
from tests.unit.inference_svc.conversion.graphs import manifest, rows

X = rows(300, 6)
Y = 2.0 * X[:, 0] + np.sin(X[:, 1]) + 0.1 * X[:, 2]
SIGN = (Y > 0).astype(int)
THREE = np.array(["down", "flat", "up"])[np.digitize(Y, [-1.0, 1.0])]
# Values around 100 that differ in the seventh digit: float32 barely tells neighbours apart.
LEVELS = 100.0 + X / 10.0


def fitted(model: Any, target: Any, features: Any = X) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, target)


def converted(model: Any, features: Any = X, **others: Any) -> Conversion:
    return convert(model, features, manifest=manifest(features.shape[1]), **others)


REGRESSORS: dict[str, Callable[[], Any]] = {
    "ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
    "elastic net": lambda: ElasticNet(alpha=0.1),
    "boosting": lambda: GradientBoostingRegressor(n_estimators=20, random_state=0),
    "forest": lambda: RandomForestRegressor(n_estimators=10, random_state=0),
    "extra trees": lambda: make_pipeline(StandardScaler(), ExtraTreesRegressor(n_estimators=10, random_state=0)),
    "histogram boosting": lambda: HistGradientBoostingRegressor(max_iter=20),
    "scaled histogram boosting": lambda: make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=20)),
    "perceptron": lambda: make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(16, 8), max_iter=50, random_state=0)
    ),
    "support vectors": lambda: make_pipeline(StandardScaler(), SVR()),
    "columns": lambda: make_pipeline(
        ColumnTransformer([("a", StandardScaler(), [0, 2]), ("b", RobustScaler(), [1])], remainder="passthrough"),
        Ridge(),
    ),
    "voting": lambda: VotingRegressor([("a", Ridge()), ("b", HistGradientBoostingRegressor(max_iter=5))]),
}


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_answers_the_same_and_can_be_served(name: str) -> None:
    model = fitted(REGRESSORS[name](), Y)
    conversion = converted(model)
    (output,) = conversion.verification.outputs
    assert (output.name, output.columns) == ("prediction", 1)
    assert output.max_abs_error < 1e-5
    assert conversion.manifest.framework.startswith("scikit-learn ")
    served = OnnxModel.load(conversion.onnx)
    unseen = rows(50, 6, seed=8).astype(np.float32)
    np.testing.assert_allclose(served.predict(unseen), np.ravel(model.predict(unseen)), rtol=1e-4, atol=1e-4)


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=10, random_state=0),
    "forest": lambda: RandomForestClassifier(n_estimators=10, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=10),
    "perceptron": lambda: MLPClassifier((16,), max_iter=50, random_state=0),
    "calibrated": lambda: CalibratedClassifierCV(LinearSVC()),
}


@pytest.mark.parametrize(
    "target", [SIGN, SIGN.astype(bool), SIGN.astype(float), THREE], ids=["int", "bool", "float", "text"]
)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_gives_labels_and_probabilities(name: str, target: Any) -> None:
    model = fitted(CLASSIFIERS[name](), target)
    conversion = converted(model)
    (output,), (labels,) = conversion.verification.outputs, conversion.verification.labels
    assert (output.name, output.columns, labels.name) == ("probabilities", len(set(target)), "label")
    label, probabilities = Graph(conversion.onnx)(X.astype(np.float32))
    assert probabilities.shape == (300, len(set(target)))  # a tensor, and no list of dictionaries
    np.testing.assert_allclose(probabilities, model.predict_proba(X.astype(np.float32)), atol=1e-5)
    assert (label == model.predict(X.astype(np.float32))).all()


@pytest.mark.parametrize("name", ["histogram boosting", "scaled histogram boosting", "boosting", "forest"])
def test_trees_that_split_where_float32_is_coarse_answer_the_same(name: str) -> None:
    features = np.round(rows(3000, 6, seed=3) * 4.0) / 3.0 + 1e5  # many rows exactly at a threshold
    target = features[:, 0] % 1.0 + np.sin(features[:, 1])
    conversion = converted(fitted(REGRESSORS[name](), target, features), features)
    assert conversion.verification.outputs[0].max_abs_error < 1e-5


@pytest.mark.parametrize("name", REGRESSORS)
def test_the_same_model_gives_the_same_bytes(name: str) -> None:
    model = fitted(REGRESSORS[name](), Y)
    assert converted(model).onnx == converted(model, X[::-1]).onnx
    assert converted(fitted(REGRESSORS[name](), Y)).onnx == converted(model).onnx


_IN_ANOTHER_PROCESS = """
import tests.unit.inference_svc.conversion.test_from_sklearn as here
for name in ("ridge", "boosting", "histogram boosting", "perceptron", "columns"):
    print(here.converted(here.fitted(here.REGRESSORS[name](), here.Y)).onnx_sha256)
"""


def test_the_same_model_gives_the_same_bytes_in_every_process() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", _IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[4],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(set(said[0].split())) == 5


def test_opsets_are_pinned() -> None:
    model = onnx.load_from_string(converted(fitted(REGRESSORS["scaled histogram boosting"](), Y)).onnx)
    assert {each.domain: each.version for each in model.opset_import} == {"": 18, "ai.onnx.ml": 3}


@pytest.mark.parametrize(
    ("model", "target", "said"),
    [
        (StandardScaler(), None, "StandardScaler neither regresses nor classifies"),
        (SVC(), SIGN, "CalibratedClassifierCV"),
        (Ridge(), np.column_stack([Y, Y]), "2 numbers a row"),
        (RandomForestClassifier(3), np.column_stack([SIGN, SIGN]), "several labels"),
        (TransformedTargetRegressor(Ridge(), transformer=StandardScaler()), Y, "TransformedTargetRegressor"),
        (HistGradientBoostingRegressor(loss="poisson", max_iter=5), np.exp(Y / 3), "'poisson'"),
        (HistGradientBoostingRegressor(categorical_features=[5], max_iter=5), Y, "categorical"),
    ],
)
def test_what_has_no_form_in_onnx_is_refused_by_name(model: Any, target: Any, said: str) -> None:
    features = X.copy()
    features[:, 5] = np.abs(np.round(X[:, 5]))
    with pytest.raises(UnsupportedModelError, match=said) as caught:
        converted(fitted(model, target, features), features)
    assert caught.value.reason == "UNSUPPORTED_MODEL"


def test_a_model_that_is_not_fitted_is_refused() -> None:
    for model in (Ridge(), make_pipeline(StandardScaler(), LogisticRegression())):
        with pytest.raises(UnsupportedModelError, match="is not fitted"):
            converted(model)


def test_a_model_that_float32_cannot_hold_is_a_mismatch() -> None:
    """A Gaussian process solves an ill-conditioned system: what is exact in float64 is noise in float32."""
    with pytest.raises(ParityError):
        converted(fitted(GaussianProcessRegressor(alpha=1e-6), Y))


def test_no_model_at_all_is_refused_with_what_is_supported() -> None:
    for thing in (object(), {"weights": [1, 2]}, np.zeros(3)):
        with pytest.raises(UnsupportedModelError, match=r"LightGBM.*torch\.nn\.Module.*SavedModels"):
            converted(thing)


def test_the_models_own_names_are_taken_and_other_names_are_refused() -> None:
    from runtime.errors import InvalidInputError

    model = fitted(Ridge(), Y)
    model.feature_names_in_ = np.array(["a", "b", "c", "d", "e", "f"], dtype=object)
    names = ("a", "b", "c", "d", "e", "f")
    assert convert(model, X, manifest=manifest(6, feature_names=())).manifest.feature_names == names
    with pytest.raises(InvalidInputError, match="column 1 is 'c' there and 'b' here") as caught:
        convert(model, X, manifest=manifest(6, feature_names=("a", "c", "b", "d", "e", "f")))
    assert caught.value.reason == "FEATURE_NAMES_MISMATCH"
    with pytest.raises(InvalidInputError, match="has 0 names"):
        convert(fitted(Ridge(), Y), X, manifest=manifest(6, feature_names=()))
