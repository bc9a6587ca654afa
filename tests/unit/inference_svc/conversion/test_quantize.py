"""int8: smaller, close, and measured; refused where there is nothing to quantise or the order is lost."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from inference_svc.conversion import convert
from inference_svc.conversion.graph import Graph
from inference_svc.conversion.quantize import Mode, rank_correlation
from modelstore.onnx_model import OnnxModel
from runtime.errors import InvalidInputError
from tests.unit.inference_svc.conversion.graphs import manifest, rows

X = rows(400, 6)
Y = 2.0 * X[:, 0] + np.sin(X[:, 1])


@pytest.fixture(scope="module")
def perceptron() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(128, 64), max_iter=60, random_state=0)
        ).fit(X, Y)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_the_report_is_of_the_model_that_is_returned(perceptron: Any, mode: Mode) -> None:
    whole = convert(perceptron, X, manifest=manifest(6))
    small = convert(perceptron, X, manifest=manifest(6), int8=mode)
    report = small.int8
    assert report is not None
    assert (report.float_bytes, report.int8_bytes) == (len(whole.onnx), len(small.onnx))
    assert report.int8_bytes < report.float_bytes / 2
    errors = np.abs(OnnxModel.load(small.onnx).predict(X) - perceptron.predict(X.astype(np.float32)))
    (output,) = report.outputs
    assert output.max_abs_error == pytest.approx(errors.max(), rel=1e-6)
    assert output.mean_abs_error == pytest.approx(errors.mean(), rel=1e-6)
    assert 0.999 < output.rank_correlation < 1.0
    assert report.speed_one_row > 0 < report.speed_many_rows
    # The verification is that of the float model, before anything was quantised.
    assert small.verification.outputs[0].max_abs_error == whole.verification.outputs[0].max_abs_error
    operators = {node.op_type for node in onnx.load_from_string(small.onnx).graph.node}
    assert operators & {"MatMulInteger", "QLinearMatMul", "DequantizeLinear"}


def test_only_static_scores_a_row_the_same_in_every_batch(perceptron: Any) -> None:
    effects = {}
    modes: tuple[Mode, ...] = ("dynamic", "static")
    for mode in modes:
        conversion = convert(perceptron, X, manifest=manifest(6), int8=mode)
        assert conversion.int8 is not None
        effects[mode] = conversion.int8.batch_effect
        graph = Graph(conversion.onnx)
        alone = np.concatenate([graph(X[row : row + 1])[0] for row in range(256)])
        assert effects[mode] == pytest.approx(np.abs(alone - graph(X)[0][:256]).max(), rel=1e-3, abs=1e-6)
    assert effects["static"] < 1e-5 < 1e-3 < effects["dynamic"]


def test_the_same_model_gives_the_same_int8_bytes(perceptron: Any) -> None:
    for mode in ("dynamic", "static"):
        one, other = (convert(perceptron, X, manifest=manifest(6), int8=mode) for _ in range(2))  # type: ignore[arg-type]
        assert one.onnx == other.onnx


def test_a_lost_order_is_refused(perceptron: Any) -> None:
    with pytest.raises(InvalidInputError, match="rank correlation") as caught:
        convert(perceptron, X, manifest=manifest(6), int8="dynamic", least_rank_correlation=1.0)
    assert caught.value.reason == "INT8_PARITY"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (RandomForestRegressor(3, random_state=0), "trees hold thresholds, not weight matrices"),
        (Ridge(), "LinearRegressor"),
    ],
)
def test_nothing_to_quantise_is_an_error_that_says_why(model: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        convert(model.fit(X, Y), X, manifest=manifest(6), int8="dynamic")
    assert caught.value.reason == "NOTHING_TO_QUANTISE"


values = st.lists(st.integers(-20, 20).map(float), min_size=3, max_size=40)


@settings(deadline=None)
@given(values, values)
def test_rank_correlation_is_spearmans(one: list[float], other: list[float]) -> None:
    count = min(len(one), len(other))
    a, b = np.array(one[:count]), np.array(other[:count])
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(rank_correlation(a, b))
    else:
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
