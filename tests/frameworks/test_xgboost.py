"""XGBoost answers the same as ONNX: estimators, pipelines and boosters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from inference_svc.conversion import convert
from inference_svc.conversion.errors import ParityError, UnsupportedModelError
from inference_svc.conversion.files import load_model
from runtime.errors import InvalidInputError
from tests.frameworks.models import (
    COARSE,
    COARSE_TARGET,
    NAMES,
    SIGN,
    THREE,
    UNSEEN,
    X,
    Y,
    converted,
    probabilities,
    run_command,
    run_page,
    served,
)
from tests.unit.inference_svc.conversion.graphs import manifest


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("objective", ["reg:squarederror", "reg:absoluteerror", "count:poisson", "reg:tweedie"])
def test_a_regressor_answers_the_same(objective: str, scaled: bool) -> None:
    """Scaled, its trees split exactly at values that the scaler rounds: it has to round as scikit-learn does."""
    model = xgboost.XGBRegressor(n_estimators=50, objective=objective)
    model = make_pipeline(StandardScaler(), model) if scaled else model
    model.fit(X, np.exp(Y / 3))
    conversion = converted(model)
    assert conversion.verification.outputs[0].max_abs_error < 1e-4
    assert "xgboost" in conversion.manifest.framework
    np.testing.assert_allclose(served(conversion), model.predict(UNSEEN), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("target", [SIGN, THREE], ids=["two", "three"])
def test_a_classifier_gives_labels_and_probabilities(target: Any, scaled: bool) -> None:
    model = xgboost.XGBClassifier(n_estimators=20)
    model = make_pipeline(StandardScaler(), model) if scaled else model
    model.fit(X, target)
    label, found = probabilities(converted(model))
    np.testing.assert_allclose(found, model.predict_proba(UNSEEN), atol=1e-5)
    assert (label == model.predict(UNSEEN)).all()


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize(
    "objective",
    ["reg:squarederror", "count:poisson", "binary:logistic", "multi:softprob", "multi:softmax", "rank:pairwise"],
)
def test_a_booster_answers_the_same_also_from_its_file(objective: str, suffix: str, tmp_path: Path) -> None:
    target = {"reg:squarederror": Y, "count:poisson": np.exp(Y / 3)}.get(
        objective, THREE if "multi" in objective else SIGN
    )
    data = xgboost.DMatrix(X, target, qid=np.arange(400) // 100 if "rank" in objective else None)
    booster = xgboost.train({"objective": objective} | ({"num_class": 3} if "multi" in objective else {}), data, 20)
    conversion = converted(booster)
    expected = booster.predict(xgboost.DMatrix(UNSEEN))
    if objective == "multi:softmax":  # the booster gives labels
        assert (probabilities(conversion)[0] == expected).all()
    elif objective.startswith(("multi", "binary")):
        label, found = probabilities(conversion)
        np.testing.assert_allclose(found[:, 1] if found.shape[1] == 2 else found, expected, atol=1e-5)
        assert (label == (expected.argmax(axis=1) if expected.ndim == 2 else expected > 0.5)).all()
    else:
        np.testing.assert_allclose(served(conversion), expected, rtol=1e-4, atol=1e-5)
    path = tmp_path / f"model.{suffix}"
    booster.save_model(path)
    assert converted(load_model(path)).onnx == conversion.onnx


def test_trees_that_split_where_float32_is_coarse_answer_the_same() -> None:
    model = xgboost.XGBRegressor(n_estimators=50).fit(COARSE, COARSE_TARGET)
    assert converted(model, COARSE).verification.outputs[0].max_abs_error < 1e-4


def test_early_stopping_is_respected() -> None:
    model = xgboost.XGBRegressor(n_estimators=200, early_stopping_rounds=2, learning_rate=0.5)
    model.fit(X[:300], Y[:300], eval_set=[(X[300:], Y[300:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    np.testing.assert_allclose(served(converted(model)), model.predict(UNSEEN), rtol=1e-4, atol=1e-5)


def test_a_ranker_answers_the_same() -> None:
    model = xgboost.XGBRanker(n_estimators=10).fit(X, SIGN, qid=np.arange(400) // 100)
    np.testing.assert_allclose(served(converted(model)), model.predict(UNSEEN), rtol=1e-4, atol=1e-5)


def test_the_boosters_names_are_the_models_and_stay_on_it() -> None:
    booster = xgboost.train({}, xgboost.DMatrix(X, Y, feature_names=list(NAMES)), 5)
    assert convert(booster, X, manifest=manifest(6, feature_names=())).manifest.feature_names == NAMES
    assert booster.feature_names == list(NAMES)
    with pytest.raises(InvalidInputError, match="column 0 is 'beta' there"):
        convert(booster, X, manifest=manifest(6, feature_names=NAMES[::-1]))


def test_boosters_without_a_converter_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="gblinear"):
        converted(xgboost.XGBRegressor(n_estimators=5, booster="gblinear").fit(X, Y))
    # Newer versions of XGBoost call it gbtree too: then its dropped trees are a mismatch.
    with pytest.raises((UnsupportedModelError, ParityError), match=r"dart|leaves something"):
        converted(xgboost.XGBRegressor(n_estimators=5, booster="dart", rate_drop=0.5).fit(X, Y))


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (xgboost.XGBRegressor(n_estimators=5, objective="reg:logistic"), SIGN),
        (xgboost.XGBRFClassifier(n_estimators=5), THREE),
    ],
)
def test_what_the_converter_leaves_out_is_a_mismatch(model: Any, target: Any) -> None:
    """Negative controls from life: onnxmltools converts these without a word, and wrongly."""
    with pytest.raises(ParityError, match="leaves something"):
        converted(model.fit(X, target))


def test_forests_of_xgboost_answer_the_same() -> None:
    model = xgboost.XGBRFRegressor(n_estimators=10).fit(X, Y)
    np.testing.assert_allclose(served(converted(model)), model.predict(UNSEEN), rtol=1e-4, atol=1e-5)
    classifier = xgboost.XGBRFClassifier(n_estimators=10).fit(X, SIGN)
    np.testing.assert_allclose(probabilities(converted(classifier))[1], classifier.predict_proba(UNSEEN), atol=1e-5)


def test_the_page_and_the_command(tmp_path: Path) -> None:
    run_page("XGBoost", tmp_path)
    assert run_command("model.json", tmp_path)["framework"].startswith(f"xgboost {xgboost.__version__}")
