"""LightGBM answers the same as ONNX: estimators, pipelines and boosters."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
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

QUIET: dict[str, Any] = {"verbose": -1, "seed": 7, "deterministic": True, "force_row_wise": True, "num_threads": 1}


def asked(ask: Any, features: Any = UNSEEN) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that LightGBM's own names are not those of an array
        return ask(features)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("objective", ["regression", "huber", "poisson", "quantile", "tweedie"])
def test_a_regressor_answers_the_same(objective: str, scaled: bool) -> None:
    model = lightgbm.LGBMRegressor(n_estimators=30, objective=objective, **QUIET)
    model = make_pipeline(StandardScaler(), model) if scaled else model
    model.fit(X, np.exp(Y / 3))
    conversion = converted(model)
    assert conversion.verification.outputs[0].max_abs_error < 1e-4
    assert "lightgbm" in conversion.manifest.framework
    np.testing.assert_allclose(served(conversion), asked(model.predict), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("target", [SIGN, THREE, np.array(["down", "flat", "up"])[THREE]], ids=["two", "three", "text"])
def test_a_classifier_gives_labels_and_probabilities(target: Any, scaled: bool) -> None:
    model = lightgbm.LGBMClassifier(n_estimators=20, **QUIET)
    model = make_pipeline(StandardScaler(), model) if scaled else model
    model.fit(X, target)
    label, found = probabilities(converted(model))
    np.testing.assert_allclose(found, asked(model.predict_proba), atol=1e-5)
    assert (label == asked(model.predict)).all()


@pytest.mark.parametrize("objective", ["regression", "binary", "multiclass", "lambdarank"])
def test_a_booster_answers_the_same_also_from_its_file(objective: str, tmp_path: Path) -> None:
    target = {"regression": Y, "multiclass": THREE}.get(objective, SIGN)
    parameters = {"objective": objective, **QUIET} | ({"num_class": 3} if objective == "multiclass" else {})
    data = lightgbm.Dataset(X, target, group=[100] * 4 if objective == "lambdarank" else None)
    booster = lightgbm.train(parameters, data, 20)
    conversion = converted(booster)
    expected = booster.predict(UNSEEN)
    if objective in ("binary", "multiclass"):
        label, found = probabilities(conversion)
        np.testing.assert_allclose(found[:, 1] if objective == "binary" else found, expected, atol=1e-5)
        assert (label == (expected > 0.5 if objective == "binary" else expected.argmax(axis=1))).all()
    else:
        np.testing.assert_allclose(served(conversion), expected, rtol=1e-4, atol=1e-4)
    booster.save_model(tmp_path / "model.txt")
    assert converted(load_model(tmp_path / "model.txt")).onnx == conversion.onnx


def test_trees_that_split_where_float32_is_coarse_answer_the_same() -> None:
    model = lightgbm.LGBMRegressor(n_estimators=50, max_bin=2000, min_data_in_bin=1, **QUIET).fit(COARSE, COARSE_TARGET)
    assert converted(model, COARSE).verification.outputs[0].max_abs_error < 1e-4
    assert converted(model.booster_, COARSE).verification.outputs[0].max_abs_error < 1e-4


def test_a_booster_is_cut_at_its_best_iteration() -> None:
    booster = lightgbm.train({**QUIET, "learning_rate": 0.3}, lightgbm.Dataset(X, Y), 40)
    booster.best_iteration = 10
    conversion = converted(booster)
    np.testing.assert_allclose(served(conversion), booster.predict(UNSEEN, num_iteration=10), rtol=1e-4, atol=1e-4)
    assert np.abs(booster.predict(UNSEEN, num_iteration=40) - booster.predict(UNSEEN)).max() > 0.01


def test_a_ranker_answers_the_same() -> None:
    model = lightgbm.LGBMRanker(n_estimators=10, **QUIET).fit(X, SIGN, group=[100] * 4)
    np.testing.assert_allclose(served(converted(model)), asked(model.predict), rtol=1e-4, atol=1e-4)


def test_the_boosters_names_are_the_models() -> None:
    booster = lightgbm.train(QUIET, lightgbm.Dataset(X, Y, feature_name=list(NAMES)), 5)
    assert convert(booster, X, manifest=manifest(6, feature_names=())).manifest.feature_names == NAMES
    with pytest.raises(InvalidInputError, match="column 0 is 'beta' there"):
        convert(booster, X, manifest=manifest(6, feature_names=NAMES[::-1]))


@pytest.mark.parametrize(
    "parameters", [{"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, {"linear_tree": True}]
)
def test_what_the_converter_leaves_out_is_a_mismatch(parameters: dict[str, Any]) -> None:
    """Negative controls from life: onnxmltools converts these without a word, and wrongly."""
    model = lightgbm.LGBMRegressor(n_estimators=10, **QUIET, **parameters).fit(X, Y)
    with pytest.raises(ParityError, match="leaves something"):
        converted(model)


def test_what_has_no_form_in_onnx_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="mape"):
        converted(lightgbm.train({"objective": "mape", **QUIET}, lightgbm.Dataset(X, np.exp(Y)), 5))
    with pytest.raises(InvalidInputError, match="trees hold thresholds"):
        converted(lightgbm.LGBMRegressor(n_estimators=5, **QUIET).fit(X, Y), int8="dynamic")


def test_the_page_and_the_command(tmp_path: Path) -> None:
    run_page("LightGBM", tmp_path)
    assert run_command("model.txt", tmp_path)["framework"] == f"lightgbm {lightgbm.__version__}"
