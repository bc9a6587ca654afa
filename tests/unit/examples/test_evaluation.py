"""The worth of signals, against figures worked out by hand and by another way."""

from __future__ import annotations

import numpy as np
import pytest

from examples.us_equities.evaluation import evaluate, performance


def test_costs_are_paid_for_every_change_of_weight_the_first_included() -> None:
    weights = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    flat = np.zeros((3, 2))
    result = performance(weights, flat, cost_bps=10.0)
    # 1.0 traded to enter, then nothing, then 1.0 to switch: 2 dollars in 3 sessions at 10 bps.
    assert result.turnover == pytest.approx(2 / 3)
    assert result.annual_return == pytest.approx(-2 * 0.001 / 3 * 252)
    assert result.max_drawdown == pytest.approx((1 - 0.001) ** 2 - 1), "the starting capital is a peak"


def test_sharpe_is_mean_over_deviation_times_root_252() -> None:
    returns = np.array([[0.01], [-0.005], [0.02], [0.0]])
    daily = returns[:, 0]
    result = performance(np.ones((4, 1)), returns, cost_bps=0.0)
    assert result.sharpe == pytest.approx(daily.mean() / np.std(daily, ddof=1) * 252**0.5)
    assert result.max_drawdown == pytest.approx(-0.005)


def test_a_signal_earns_only_from_the_close_after_the_next() -> None:
    """A jump between t and t+1 is not earned by a signal of t; one between t+1 and t+2 is."""
    closes = np.array([[100.0], [200.0], [200.0], [400.0], [400.0]])
    forward = np.full_like(closes, np.nan)
    at_first = np.array([[1], [0], [0], [0], [0]], dtype=np.int8)
    at_second = np.array([[0], [1], [0], [0], [0]], dtype=np.int8)
    earned_first = evaluate(at_first, closes, forward).strategy.annual_return
    earned_second = evaluate(at_second, closes, forward).strategy.annual_return
    assert earned_first < 0, "only costs"
    assert earned_second > 0, "the doubling of the third session"


def test_hits_count_only_signals_whose_outcome_is_known() -> None:
    directions = np.array([[1, -1], [1, 0], [1, 1], [1, 1]], dtype=np.int8)
    forward = np.array([[np.nan, np.nan], [0.1, 0.1], [0.2, 0.3], [np.nan, np.nan]])
    closes = np.array([[1.0, 1.0], [1.1, 1.0], [1.0, 1.0], [1.2, 1.1]])
    result = evaluate(directions, closes, forward)
    assert (result.hit_count, result.hit_rate) == (3, pytest.approx(2 / 3))


def test_buy_and_hold_of_one_symbol_is_its_return() -> None:
    closes = np.array([[1.0], [1.0], [1.1], [1.21]])
    result = evaluate(np.zeros((4, 1), dtype=np.int8), closes, np.full((4, 1), np.nan))
    assert result.buy_and_hold.annual_return == pytest.approx((0.1 + 0.1 - 0.0005) / 2 * 252)
    assert result.strategy.sharpe == 0.0
