"""Keras and TensorFlow answer the same as ONNX."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow
from keras import layers

from inference_svc.conversion.errors import FixedBatchError, UnsupportedModelError
from inference_svc.conversion.files import load_model
from inference_svc.conversion.graph import Graph
from tests.frameworks.models import UNSEEN, X, converted, run_command, run_page, served


def sequential() -> Any:
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(32, activation="gelu"),
            layers.Dropout(0.5),
            layers.BatchNormalization(),
            layers.Dense(16, activation="selu"),
            layers.Dense(1),
        ]
    )


def two_outputs() -> Any:
    keras.utils.set_random_seed(7)
    rows = layers.Input((6,))
    hidden = layers.Dense(8, activation="relu")(rows)
    return keras.Model(rows, [layers.Dense(1, name="mean")(hidden), layers.Dense(3, "softmax", name="side")(hidden)])


def two_inputs() -> Any:
    keras.utils.set_random_seed(7)
    one, other = layers.Input((4,), name="z"), layers.Input((2,), name="a")
    return keras.Model([one, other], layers.Dense(1)(layers.Concatenate()([layers.Dense(3)(one), other])))


def test_a_model_answers_the_same() -> None:
    model = sequential()
    model.compile("adam", "mse")
    model.fit(X, X[:, 0], epochs=2, verbose=0)  # so that the batch normalisation has something to hold
    conversion = converted(model)
    assert conversion.verification.outputs[0].max_abs_error < 1e-5
    assert conversion.manifest.framework == f"keras {keras.__version__}"
    np.testing.assert_allclose(served(conversion), np.asarray(model(UNSEEN))[:, 0], rtol=1e-4, atol=1e-5)


def test_a_sequence_inside_answers_the_same() -> None:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([layers.Input((6,)), layers.Reshape((3, 2)), layers.LSTM(5), layers.Dense(1)])
    np.testing.assert_allclose(served(converted(model)), np.asarray(model(UNSEEN))[:, 0], rtol=1e-4, atol=1e-5)


def test_several_outputs_keep_their_names_and_order() -> None:
    model = two_outputs()
    conversion = converted(model)
    assert [(each.name, each.columns) for each in conversion.verification.outputs] == [("mean", 1), ("side", 3)]
    for found, expected in zip(Graph(conversion.onnx)(UNSEEN), model(UNSEEN), strict=True):
        np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-4, atol=1e-5)


def test_a_row_is_laid_over_several_inputs_from_left_to_right() -> None:
    model = two_inputs()
    expected = np.asarray(model([UNSEEN[:, :4], UNSEEN[:, 4:]]))
    np.testing.assert_allclose(Graph(converted(model).onnx)(UNSEEN)[0], expected, rtol=1e-4, atol=1e-5)


def test_saved_models_answer_the_same(tmp_path: Path) -> None:
    model = sequential()
    model.save(tmp_path / "model.keras")
    assert converted(load_model(tmp_path / "model.keras")).onnx == converted(model).onnx
    model.export(str(tmp_path / "saved"), verbose=False)
    conversion = converted(load_model(tmp_path / "saved"))
    assert conversion.manifest.framework == f"tensorflow {tensorflow.__version__}"
    np.testing.assert_allclose(served(conversion), np.asarray(model(UNSEEN))[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: keras.Sequential([layers.Input(batch_shape=(400, 6)), layers.Dense(1)]), FixedBatchError, "400 rows"),
        (lambda: keras.Sequential([layers.Dense(1)]), UnsupportedModelError, "no built keras.Model"),
        (lambda: keras.Sequential([layers.Input((3, 6)), layers.LSTM(3)]), UnsupportedModelError, r"\[None, 3, 6\]"),
        (lambda: layers.Dense(1), UnsupportedModelError, "Dense is no built"),
        (lambda: tensorflow.Module(), UnsupportedModelError, "no signature 'serving_default'"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(make: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        converted(make())


def test_int8_is_close() -> None:
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [layers.Input((6,)), layers.Dense(256, "relu"), layers.Dense(256, "relu"), layers.Dense(1)]
    )
    for mode in ("dynamic", "static"):
        report = converted(model, int8=mode).int8
        assert report is not None
        assert report.int8_bytes < report.float_bytes / 3
        assert report.outputs[0].rank_correlation > 0.99


_IN_ANOTHER_PROCESS = """
import tests.frameworks.test_tensorflow as here
print(here.converted(here.sequential()).onnx_sha256, here.converted(here.two_outputs()).onnx_sha256)
"""


def test_the_same_model_gives_the_same_bytes_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", _IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_the_page_and_the_command(tmp_path: Path) -> None:
    run_page("Keras and TensorFlow", tmp_path)
    assert run_command("model.keras", tmp_path)["framework"] == f"keras {keras.__version__}"
