"""LightGBM to ONNX, by onnxmltools: the scikit-learn estimators (also as a step of a pipeline) and boosters."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from skl2onnx import update_registered_converter
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from inference_svc.conversion.errors import UnsupportedModelError
from inference_svc.conversion.exported import LABEL, PREDICTION, PROBABILITIES, Exported, Reference, Rows
from inference_svc.conversion.frameworks import feature_names_of, quietly, require
from inference_svc.conversion.thresholds import float32_below

_ONNXMLTOOLS_OPSET = 15
"""The newest that onnxmltools writes by itself. The few operators of its tree models are the same in the pinned one."""

_THRESHOLDS = "threshold="


def from_lightgbm(model: Any, columns: int) -> Exported:
    """Export an LGBMRegressor, LGBMClassifier, LGBMRanker or Booster, fitted on so many features.

    A regressor or ranker gives `prediction` [N, 1]; a classifier, or a booster with a binary or multiclass objective,
    `label` [N] and `probabilities` [N, C]. A booster is cut at its best iteration, as LightGBM itself predicts. Raises
    UnsupportedModelError, MissingFrameworkError.
    """
    lightgbm = require("lightgbm")
    if isinstance(model, (lightgbm.LGBMRegressor, lightgbm.LGBMClassifier)):
        from inference_svc.conversion.from_sklearn import from_sklearn

        return from_sklearn(model, columns)
    booster = model.booster_ if isinstance(model, lightgbm.LGBMRanker) else model
    if not isinstance(booster, lightgbm.Booster):
        raise UnsupportedModelError(
            f"lightgbm's {type(model).__name__} is no LGBMRegressor, LGBMClassifier, LGBMRanker or Booster"
        )
    graph = _graph(booster, columns)
    classifies = len(graph.graph.output) == 2
    return Exported(
        graph=graph,
        reference=_classes(booster) if classifies else _regression(booster),
        framework=f"lightgbm {lightgbm.__version__}",
        input_names=("rows",),
        output_names=(LABEL, PROBABILITIES) if classifies else (PREDICTION,),
        feature_names=feature_names_of(booster),
        takes_float64=True,
    )


@cache
def register_lightgbm() -> None:
    """Teach skl2onnx, once a process, to convert LightGBM's estimators as steps of a pipeline."""
    lightgbm = require("lightgbm")
    require("onnxmltools.convert.lightgbm.operator_converters.LightGbm")
    update_registered_converter(
        lightgbm.LGBMRegressor,
        "QuantmeshLGBMRegressor",
        calculate_linear_regressor_output_shapes,
        _convert,
        options={"split": None},
    )
    update_registered_converter(
        lightgbm.LGBMClassifier,
        "QuantmeshLGBMClassifier",
        calculate_linear_classifier_output_shapes,
        _convert,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )


# The names of the parameters are checked by skl2onnx.
def _convert(scope: Any, operator: Any, container: Any) -> None:
    model = copy.copy(operator.raw_operator)
    model._Booster = _with_float32_thresholds(model.booster_)
    operator.raw_operator = model
    require("onnxmltools.convert.lightgbm.operator_converters.LightGbm").convert_lightgbm(scope, operator, container)


def _with_float32_thresholds(booster: Any) -> Any:
    """A copy, up to the best iteration, whose splits decide the same for float32 rows with float32 thresholds."""
    lines = booster.model_to_string(num_iteration=booster.best_iteration).split("\n")
    for number, line in enumerate(lines):
        if line.startswith(_THRESHOLDS):
            # Those of categorical splits are small whole numbers, which stay as they are.
            values = float32_below(np.array(line.removeprefix(_THRESHOLDS).split(), dtype=np.float64))
            lines[number] = _THRESHOLDS + " ".join(repr(float(each)) for each in values)
    # The sizes are those of the text as it was; without them LightGBM reads on from tree to tree.
    return type(booster)(model_str="\n".join(line for line in lines if not line.startswith("tree_sizes=")))


def _graph(booster: Any, columns: int) -> onnx.ModelProto:
    tools = require("onnxmltools")
    types = require("onnxmltools.convert.common.data_types")
    try:
        with quietly():
            graph: onnx.ModelProto = tools.convert_lightgbm(
                _with_float32_thresholds(booster),
                initial_types=[("rows", types.FloatTensorType([None, columns]))],
                target_opset=_ONNXMLTOOLS_OPSET,
                zipmap=False,
            )
    except Exception as error:  # onnxmltools raises whatever it stumbles over
        first = str(error).strip().partition("\n")[0][:300]
        raise UnsupportedModelError(f"onnxmltools does not convert this booster ({first})") from error
    return graph


def _regression(booster: Any) -> Reference:
    return lambda rows: (np.asarray(booster.predict(rows)).reshape(-1, 1),)


def _classes(booster: Any) -> Reference:
    def ask(rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
        given = np.asarray(booster.predict(rows))
        probabilities = np.column_stack([1.0 - given, given]) if given.ndim == 1 else given
        return probabilities.argmax(axis=1), probabilities

    return ask
