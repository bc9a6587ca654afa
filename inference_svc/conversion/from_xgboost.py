"""XGBoost to ONNX, by onnxmltools: the scikit-learn estimators (also as a step of a pipeline) and boosters."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from typing import Any

from skl2onnx import update_registered_converter
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from inference_svc.conversion.errors import UnsupportedModelError
from inference_svc.conversion.exported import Exported
from inference_svc.conversion.frameworks import feature_names_of, require

_HARD, _SOFT = "multi:softmax", "multi:softprob"
_CLASSIFYING = ("binary:logistic", "multi:")


def from_xgboost(model: Any, columns: int) -> Exported:
    """Export an XGBRegressor, XGBClassifier, XGBRFRegressor, XGBRFClassifier, XGBRanker or Booster.

    A booster with the objective `binary:logistic` or `multi:…` gives `label` [N] and `probabilities` [N, C]; others
    give `prediction` [N, 1]. Raises UnsupportedModelError, MissingFrameworkError.
    """
    xgboost = require("xgboost")
    from inference_svc.conversion.from_sklearn import from_sklearn

    if isinstance(model, (xgboost.Booster, xgboost.XGBRanker)):
        booster = model if isinstance(model, xgboost.Booster) else model.get_booster()
        return replace(
            from_sklearn(_estimator(xgboost, booster), columns),
            framework=f"xgboost {xgboost.__version__}",
            feature_names=feature_names_of(booster),
        )
    if isinstance(model, xgboost.XGBModel):
        return from_sklearn(model, columns)
    raise UnsupportedModelError(f"xgboost's {type(model).__name__} is no estimator or Booster of its Python package")


@cache
def register_xgboost() -> None:
    """Teach skl2onnx, once a process, to convert XGBoost's estimators as steps of a pipeline."""
    xgboost = require("xgboost")
    require("onnxmltools.convert.xgboost.operator_converters.XGBoost")
    for kind in (xgboost.XGBRegressor, xgboost.XGBRFRegressor):
        update_registered_converter(
            kind, f"Quantmesh{kind.__name__}", calculate_linear_regressor_output_shapes, _convert
        )
    for kind in (xgboost.XGBClassifier, xgboost.XGBRFClassifier):
        update_registered_converter(
            kind,
            f"Quantmesh{kind.__name__}",
            calculate_linear_classifier_output_shapes,
            _convert,
            options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
        )


# The names of the parameters are checked by skl2onnx.
def _convert(scope: Any, operator: Any, container: Any) -> None:
    model = operator.raw_operator
    kind = json.loads(model.get_booster().save_config())["learner"]["gradient_booster"]["name"]
    if kind != "gbtree":
        raise UnsupportedModelError(f"XGBoost's booster {kind!r} is not converted by onnxmltools; 'gbtree' is")
    if model.get_booster().feature_names is not None or model.objective == _HARD:
        operator.raw_operator = model = copy.deepcopy(model)  # the caller's stays as it is
        model.get_booster().feature_names = None  # onnxmltools would read a column's number out of its name
        model.objective = _SOFT if model.objective == _HARD else model.objective  # the same trees, with probabilities
    require("onnxmltools.convert.xgboost.operator_converters.XGBoost").convert_xgboost(scope, operator, container)


def _estimator(xgboost: Any, booster: Any) -> Any:
    """The estimator around a booster: its predict and predict_proba are the booster's own."""
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    estimator = xgboost.XGBClassifier() if objective.startswith(_CLASSIFYING) else xgboost.XGBRegressor()
    estimator.load_model(booster.save_raw("ubj"))
    return estimator
