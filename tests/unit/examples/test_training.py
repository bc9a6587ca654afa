"""Training looks at nothing from the cut-off on, and gives the same models for the same data."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from examples.us_equities.panel import Panel, load
from examples.us_equities.training import HORIZON, relative_forward_returns, train_all, training_set
from modelstore.onnx_model import OnnxModel

PANEL = load()
FIRST = PANEL.first_at_or_after(date(2016, 1, 1))
CUTOFF = PANEL.first_at_or_after(date(2019, 1, 1))


def test_what_happens_from_the_cutoff_on_changes_no_training_row() -> None:
    changed = Panel(PANEL.days, PANEL.symbols, PANEL.closes.copy())
    changed.closes[CUTOFF:] *= 3.0
    before, after = training_set(PANEL, FIRST, CUTOFF), training_set(changed, FIRST, CUTOFF)
    assert before.sha256 == after.sha256
    # The last HORIZON sessions have no label before the cut-off: they are purged.
    assert len(before.labels) == (CUTOFF - FIRST - HORIZON) * len(PANEL.symbols)


def test_labels_are_relative_to_the_other_symbols() -> None:
    labels = relative_forward_returns(PANEL.closes[:50])
    assert labels.shape == (50, 20)
    assert np.isnan(labels[-HORIZON:]).all()
    np.testing.assert_allclose(labels[:-HORIZON].mean(axis=1), 0.0, atol=1e-12)
    expected = PANEL.closes[HORIZON] / PANEL.closes[0] - 1.0
    np.testing.assert_allclose(labels[0], expected - expected.mean())


def test_the_same_data_gives_the_same_models_in_onnx() -> None:
    data = training_set(PANEL, FIRST, CUTOFF)
    first, second = train_all(data), train_all(data)
    assert [m.onnx for m in first] == [m.onnx for m in second]
    assert {m.name for m in first} == {"us-equities-ridge", "us-equities-boosting"}
    for model in first:
        predictions = OnnxModel.load(model.onnx).predict(data.rows)
        assert model.metrics["train_r2"] == pytest.approx(
            1 - np.var(data.labels - predictions) / np.var(data.labels), abs=1e-4
        )
        taken = np.abs(predictions) > model.signal_threshold
        assert 0.4 < taken.mean() < 0.6
