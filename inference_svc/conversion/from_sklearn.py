"""scikit-learn to ONNX, by skl2onnx: regressors and classifiers, alone and in pipelines, boosters among their steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import sklearn
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from inference_svc.conversion.canonical import ML_OPSET, OPSET
from inference_svc.conversion.errors import SUPPORTED, UnsupportedModelError
from inference_svc.conversion.exported import LABEL, PREDICTION, PROBABILITIES, Exported, Rows
from inference_svc.conversion.frameworks import feature_names_of, quietly, require, roots
from inference_svc.conversion.hist_gradient_boosting import register_hist_gradient_boosting

_INPUT = "rows"


def from_sklearn(model: Any, columns: int) -> Exported:
    """Export a fitted estimator, or a pipeline that ends in one, for rows of so many features.

    A regressor gives `prediction` [N, 1]; a classifier `label` [N] (int64, or text) and `probabilities` [N, C] in the
    order of its classes. Raises UnsupportedModelError; MissingFrameworkError when a booster's step needs an extra.
    """
    classifies = bool(is_classifier(model))
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise UnsupportedModelError(f"this {type(model).__name__} is not fitted") from error
    if not classifies and not is_regressor(model):
        raise UnsupportedModelError(f"{type(model).__name__} neither regresses nor classifies. Supported: {SUPPORTED}")
    if classifies and not hasattr(model, "predict_proba"):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no probabilities, and a label alone is no prediction: wrap it in "
            "scikit-learn's CalibratedClassifierCV"
        )
    if classifies and isinstance(model.classes_, list):
        raise UnsupportedModelError("it gives several labels a row; one is served")
    _register(model)
    return Exported(
        graph=_graph(model, columns, classifies),
        reference=_classes(model) if classifies else _regression(model),
        framework=_framework(model),
        input_names=(_INPUT,),
        output_names=(LABEL, PROBABILITIES) if classifies else (PREDICTION,),
        feature_names=feature_names_of(model),
        takes_float64=True,
    )


def _graph(model: Any, columns: int, classifies: bool) -> onnx.ModelProto:
    by_name = _columns_by_name(model)
    types = [(name, FloatTensorType([None, 1])) for name in by_name] or [(_INPUT, FloatTensorType([None, columns]))]
    # The Scaler operator multiplies by 1/scale, which may round a value past a tree's split that is exactly there;
    # a subtraction and a division are what scikit-learn does.
    options: dict[Any, Any] = {StandardScaler: {"div": "div"}}
    if classifies:
        options[id(model)] = {"zipmap": False}
    try:
        with quietly():
            graph = convert_sklearn(
                model, initial_types=types, target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET}, options=options
            )
    except UnsupportedModelError:
        raise
    except Exception as error:  # skl2onnx raises whatever its converters stumble over
        first = str(error).strip().partition("\n")[0][:300]
        raise UnsupportedModelError(
            f"skl2onnx does not convert this {type(model).__name__} ({type(error).__name__}: {first})"
        ) from error
    return _joined(graph, by_name) if by_name else graph


def _parts(model: Any) -> list[Any]:
    """A model and all that it is made of."""
    return [model, *(each for each in model.get_params(deep=True).values() if hasattr(each, "get_params"))]


def _columns_by_name(model: Any) -> tuple[str, ...]:
    """The columns' names where a step picks some by name, so that each has to be an input of its own; else empty."""
    picks = any(isinstance(each, ColumnTransformer) for each in _parts(model))
    return tuple(map(str, model.feature_names_in_)) if picks and hasattr(model, "feature_names_in_") else ()


def _joined(graph: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """Replace the inputs [N, 1] of all columns by one input [N, F] that is split into them."""
    inputs = [each.name for each in graph.graph.input]
    if inputs != list(names):
        raise UnsupportedModelError(
            f"skl2onnx named its inputs {', '.join(inputs)}: name columns by letters and digits"
        )
    del graph.graph.input[:]
    graph.graph.input.append(helper.make_tensor_value_info("all columns", TensorProto.FLOAT, [None, len(names)]))
    graph.graph.node.insert(0, helper.make_node("Split", ["all columns"], names, axis=1, num_outputs=len(names)))
    return graph


def _register(model: Any) -> None:
    found = {root for part in _parts(model) for root in roots(part)}
    register_hist_gradient_boosting()
    # Its module is loaded already: one of its objects is here.
    if "lightgbm" in found:
        from inference_svc.conversion.from_lightgbm import register_lightgbm

        register_lightgbm()
    if "xgboost" in found:
        from inference_svc.conversion.from_xgboost import register_xgboost

        register_xgboost()


def _framework(model: Any) -> str:
    found = {root for part in _parts(model) for root in roots(part)}
    boosters = [f"{name} {require(name).__version__}" for name in ("lightgbm", "xgboost") if name in found]
    return ", ".join([*boosters, f"scikit-learn {sklearn.__version__}"])


def _as_fitted(model: Any, rows: Rows) -> Any:
    """Rows as the model saw them when it was fitted: a frame, if it was one and the columns go by their names."""
    if not _columns_by_name(model):
        return rows
    return require("pandas").DataFrame(rows, columns=list(model.feature_names_in_))


def _regression(model: Any) -> Any:
    def ask(rows: Rows) -> tuple[NDArray[Any]]:
        with quietly():
            predictions = np.asarray(model.predict(_as_fitted(model, rows)), dtype=np.float64)
        if predictions.size != len(rows):
            raise UnsupportedModelError(f"it predicts {predictions.shape[1]} numbers a row; one is served")
        return (predictions.reshape(-1, 1),)

    return ask


def _classes(model: Any) -> Any:
    def ask(rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
        with quietly():
            given = _as_fitted(model, rows)
            labels, probabilities = np.asarray(model.predict(given)), model.predict_proba(given)
        if labels.dtype.kind in "biuf":  # ONNX has them as whole numbers
            labels = labels.astype(np.int64)
        return labels, np.asarray(probabilities, dtype=np.float64)

    return ask
