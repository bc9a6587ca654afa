"""HistGradientBoosting for skl2onnx, which passes numpy's numbers on to ONNX, and ONNX takes Python's only."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
from skl2onnx import update_registered_converter
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from skl2onnx.operator_converters.random_forest import (
    convert_sklearn_random_forest_classifier,
    convert_sklearn_random_forest_regressor_converter,
)
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from inference_svc.conversion.errors import UnsupportedModelError
from inference_svc.conversion.thresholds import float32_below

_LINEAR = ("squared_error", "absolute_error", "quantile")
_OF_A_CLASSIFIER = {
    "zipmap": [True, False, "columns"],
    "raw_scores": [True, False],
    "output_class_labels": [False, True],
    "nocl": [True, False],
}


@cache
def register_hist_gradient_boosting() -> None:
    """Teach skl2onnx, once a process, to convert HistGradientBoosting without categorical features."""
    update_registered_converter(
        HistGradientBoostingRegressor,
        "QuantmeshHistGradientBoostingRegressor",
        calculate_linear_regressor_output_shapes,
        _regressor,
        options={"raw_scores": [True, False]},
    )
    update_registered_converter(
        HistGradientBoostingClassifier,
        "QuantmeshHistGradientBoostingClassifier",
        calculate_linear_classifier_output_shapes,
        _classifier,
        options=_OF_A_CLASSIFIER,
    )


# The names of the parameters are checked by skl2onnx.
def _regressor(scope: Any, operator: Any, container: Any) -> None:
    if operator.raw_operator.loss not in _LINEAR:
        raise UnsupportedModelError(
            f"HistGradientBoostingRegressor with the loss {operator.raw_operator.loss!r} is not converted by skl2onnx, "
            f"which leaves its exponential out; the losses {', '.join(_LINEAR)} are"
        )
    operator.raw_operator = _with_float32_thresholds(operator.raw_operator)
    convert_sklearn_random_forest_regressor_converter(scope, operator, _PlainNumbers(container))


def _classifier(scope: Any, operator: Any, container: Any) -> None:
    operator.raw_operator = _with_float32_thresholds(operator.raw_operator)
    convert_sklearn_random_forest_classifier(scope, operator, _PlainNumbers(container))


def _with_float32_thresholds(model: Any) -> Any:
    """A copy whose splits decide the same for every float32 row when their thresholds are cast to float32."""
    categories = model.is_categorical_
    if categories is not None and np.any(categories):
        raise UnsupportedModelError(
            "HistGradientBoosting with categorical features is not converted by skl2onnx, which takes their splits for "
            "numeric ones: encode them before, or use LightGBM"
        )
    model = copy.deepcopy(model)
    for predictor in (each for iteration in model._predictors for each in iteration):
        predictor.nodes["num_threshold"] = float32_below(predictor.nodes["num_threshold"])
    return model


class _PlainNumbers:
    """A container of skl2onnx that takes numpy's numbers in attributes."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, op_type: str, inputs: Any, outputs: Any, **attributes: Any) -> Any:
        """Add a node."""
        plain = {name: _plain(value) for name, value in attributes.items()}
        return self._container.add_node(op_type, inputs, outputs, **plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return value.item() if isinstance(value, np.generic) else value
