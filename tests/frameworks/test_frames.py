"""Data frames: models that were fitted on one, and sample rows from Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler

from inference_svc.conversion import convert
from inference_svc.conversion.files import read_rows
from inference_svc.conversion.graph import Graph
from modelstore.onnx_model import OnnxModel
from runtime.errors import InvalidInputError
from tests.frameworks.models import NAMES, SIGN, UNSEEN, X, Y
from tests.unit.inference_svc.conversion.graphs import manifest

FRAME = pandas.DataFrame(X, columns=list(NAMES))
UNSEEN_FRAME = pandas.DataFrame(UNSEEN, columns=list(NAMES))
UNNAMED = manifest(6, feature_names=())


def columns() -> ColumnTransformer:
    """Picks columns by name, out of their order, and leaves one out."""
    return ColumnTransformer(
        [("scaled", StandardScaler(), ["beta", "rsi"]), ("robust", RobustScaler(), list(NAMES[:3]))]
    )


@pytest.mark.parametrize(
    "model",
    [
        Ridge(),
        make_pipeline(columns(), Ridge()),
        lightgbm.LGBMRegressor(n_estimators=10, verbose=-1),
        xgboost.XGBRegressor(n_estimators=10),
        make_pipeline(StandardScaler().set_output(transform="pandas"), xgboost.XGBRegressor(n_estimators=10)),
    ],
    ids=["ridge", "columns", "lightgbm", "xgboost", "pipeline of frames"],
)
def test_a_model_that_was_fitted_on_a_frame_knows_its_names_and_takes_one_input(model: Any) -> None:
    model.fit(FRAME, Y)
    conversion = convert(model, X, manifest=UNNAMED)
    assert conversion.manifest.feature_names == NAMES
    served = OnnxModel.load(conversion.onnx)
    assert served.columns == 6
    np.testing.assert_allclose(served.predict(UNSEEN), np.ravel(model.predict(UNSEEN_FRAME)), rtol=1e-4, atol=1e-4)
    with pytest.raises(InvalidInputError, match="not the names that the model was fitted with"):
        convert(model, X, manifest=manifest(6))


def test_a_classifier_that_picks_columns_by_name() -> None:
    model = make_pipeline(columns(), GradientBoostingClassifier(n_estimators=5)).fit(FRAME, SIGN)
    label, probabilities = Graph(convert(model, X, manifest=UNNAMED).onnx)(UNSEEN)
    np.testing.assert_allclose(probabilities, model.predict_proba(UNSEEN_FRAME), atol=1e-5)
    assert (label == model.predict(UNSEEN_FRAME)).all()


def test_rows_of_parquet_go_by_their_names(tmp_path: Path) -> None:
    FRAME.assign(symbol="AAPL").to_parquet(tmp_path / "rows.parquet")
    rows, names = read_rows(tmp_path / "rows.parquet", NAMES[::-1])
    assert names == NAMES[::-1]
    np.testing.assert_array_equal(rows, X[:, ::-1])
    with pytest.raises(InvalidInputError, match="no column turnover"):
        read_rows(tmp_path / "rows.parquet", ("turnover", *NAMES))
    FRAME.to_parquet(tmp_path / "all.parquet")
    assert read_rows(tmp_path / "all.parquet")[1] == NAMES
