"""The features against plain loops, and the two entries against each other, bit for bit."""

from __future__ import annotations

import csv
import gzip
import math
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_svc.feature_sets import load_feature_sets
from feature_svc.features import FEATURE_NAMES, WINDOW, Array, compute_last, compute_panel, rank

PANEL = Path(__file__).parents[3] / "examples" / "data" / "us_equities_daily_close.csv.gz"


def bits(values: Array) -> NDArray[np.uint64]:
    return np.ascontiguousarray(values).view(np.uint64)


def feature(panel: Array, name: str) -> Array:
    return panel[..., FEATURE_NAMES.index(name)]


def random_closes(seed: int, sessions: int, symbols: int, holes: float = 0.0) -> Array:
    random = np.random.default_rng(seed)
    closes: Array = 50.0 * np.exp(np.cumsum(random.normal(0, 0.02, (sessions, symbols)), axis=0))
    closes = np.round(closes, 2)
    closes[random.random((sessions, symbols)) < holes] = np.nan
    return closes


@pytest.fixture(scope="module")
def real_closes() -> Array:
    with gzip.open(PANEL, "rt") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0][1:]) == load_feature_sets().get("equities_daily").universe
    return np.array([[float(cell) for cell in row[1:]] for row in rows[1:1200]])


def oracle(closes: list[float]) -> dict[str, float]:
    """The features of one symbol at its last close, by loops over a list."""
    returns = [now / before - 1 for before, now in pairwise(closes)]
    changes = [now - before for before, now in pairwise(closes)][-14:]
    rises, falls = sum(c for c in changes if c > 0), -sum(c for c in changes if c < 0)
    last = closes[-1]
    return {
        "return_1d": last / closes[-2] - 1,
        "return_5d": last / closes[-6] - 1,
        "return_21d": last / closes[-22] - 1,
        "momentum_63d": last / closes[-64] - 1,
        "momentum_12_1": closes[-22] / closes[-253] - 1,
        "volatility_21d": statistics.stdev(returns[-21:]),
        "volatility_63d": statistics.stdev(returns[-63:]),
        "downside_volatility_21d": math.sqrt(sum(r * r for r in returns[-21:] if r < 0) / 21),
        "ma_ratio_10d": last / statistics.fmean(closes[-10:]) - 1,
        "ma_ratio_50d": last / statistics.fmean(closes[-50:]) - 1,
        "ma_ratio_200d": last / statistics.fmean(closes[-200:]) - 1,
        "rsi_14d": 100 - 100 / (1 + rises / falls) if falls else 100.0 if rises else 50.0,
        "zscore_20d": (last - statistics.fmean(closes[-20:])) / (statistics.stdev(closes[-20:]) or 1.0),
        "drawdown_63d": last / max(closes[-63:]) - 1,
        "max_return_21d": max(returns[-21:]),
    }


def test_features_agree_with_plain_loops(real_closes: Array) -> None:
    panel = compute_panel(real_closes)
    for session in (WINDOW - 1, 400, 1100):
        for symbol in range(real_closes.shape[1]):
            expected = oracle(real_closes[: session + 1, symbol].tolist())
            for name, value in expected.items():
                assert feature(panel, name)[session, symbol] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert set(expected) == set(FEATURE_NAMES) - {"return_rank_1d", "momentum_rank_63d"}


def test_ranks_agree_with_sorting(real_closes: Array) -> None:
    panel = compute_panel(real_closes)
    for name, ranked in (("return_rank_1d", "return_1d"), ("momentum_rank_63d", "momentum_63d")):
        values = feature(panel, ranked)[900].tolist()
        for symbol, value in enumerate(values):
            below, ties = sum(v < value for v in values), sum(v == value for v in values) - 1
            expected = (below + ties / 2) / (len(values) - 1) - 0.5
            assert feature(panel, name)[900, symbol] == pytest.approx(expected)


def test_bulk_and_one_day_agree_bit_for_bit_on_real_data(real_closes: Array) -> None:
    panel = compute_panel(real_closes)
    for session in range(0, len(real_closes), 13):
        window = real_closes[max(0, session + 1 - WINDOW) : session + 1]
        assert np.array_equal(bits(compute_last(window)), bits(panel[session])), session


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sessions=st.integers(1, 2 * WINDOW),
    symbols=st.integers(1, 40),
    holes=st.sampled_from([0.0, 0.001, 0.2]),
    days=st.lists(st.integers(0, 2 * WINDOW - 1), min_size=1, max_size=8),
)
def test_bulk_and_one_day_agree_bit_for_bit(
    seed: int, sessions: int, symbols: int, holes: float, days: list[int]
) -> None:
    closes = random_closes(seed, sessions, symbols, holes)
    panel = compute_panel(closes)
    assert panel.shape == (sessions, symbols, len(FEATURE_NAMES))
    for day in days:
        session = day % sessions
        alone = compute_last(closes[max(0, session + 1 - WINDOW) : session + 1])
        assert np.array_equal(bits(alone), bits(panel[session]))
        assert np.array_equal(bits(compute_last(closes[: session + 1])), bits(alone)), "older rows change nothing"


def test_features_look_only_back(real_closes: Array) -> None:
    changed = real_closes.copy()
    changed[601:] *= 3.0
    assert np.array_equal(bits(compute_panel(real_closes)[:601]), bits(compute_panel(changed)[:601]))


def test_a_short_history_is_nan_until_it_is_long_enough() -> None:
    panel = compute_panel(random_closes(1, 260, 3))
    for name, first in {
        "return_1d": 1,
        "rsi_14d": 14,
        "volatility_63d": 63,
        "drawdown_63d": 62,
        "ma_ratio_200d": 199,
    }.items():
        assert np.isnan(feature(panel, name)[:first]).all(), name
        assert np.isfinite(feature(panel, name)[first:]).all(), name
    assert np.isnan(feature(panel, "momentum_12_1")[: WINDOW - 1]).all()
    assert np.isfinite(panel[WINDOW - 1 :]).all()


def test_a_missing_close_takes_its_symbol_out_of_the_ranking() -> None:
    closes = random_closes(2, 300, 3)
    closes[-1, 1] = np.nan
    ranks = feature(compute_panel(closes), "return_rank_1d")[-1]
    assert np.isnan(ranks[1])
    assert sorted(ranks[[0, 2]].tolist()) == [-0.5, 0.5]


def test_closes_that_do_not_move() -> None:
    flat = compute_last(np.full((WINDOW, 2), 0.1))
    expected = dict.fromkeys(FEATURE_NAMES, 0.0) | {"rsi_14d": 50.0}
    for name, value in expected.items():
        assert feature(flat, name) == pytest.approx(value, abs=1e-15), name
    assert feature(flat, "zscore_20d").tolist() == [0.0, 0.0]


def test_rsi_stays_within_its_bounds() -> None:
    up = np.cumsum(np.full((WINDOW, 1), 0.1), axis=0)
    assert feature(compute_last(up), "rsi_14d")[0] == 100.0
    assert feature(compute_last(up[::-1].copy()), "rsi_14d")[0] == 0.0


def test_rank_shares_ties_and_skips_nan() -> None:
    assert rank(np.array([3.0, 1.0, 3.0, np.nan, 0.0]))[[0, 1, 2, 4]].tolist() == pytest.approx(
        [1 / 3, -1 / 6, 1 / 3, -0.5]
    )
    assert rank(np.array([np.nan, 7.0]))[1] == 0.0
    assert np.isnan(rank(np.array([np.nan, np.nan]))).all()


def test_another_layout_in_memory_gives_the_same_bits(real_closes: Array) -> None:
    window = real_closes[:WINDOW]
    assert np.array_equal(bits(compute_last(np.asfortranarray(window))), bits(compute_last(window)))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        compute_panel(np.ones(5))
    with pytest.raises(ValueError, match="float64"):
        compute_last(np.ones((5, 2), np.float32))  # type: ignore[arg-type]


def test_the_default_set_is_what_is_computed() -> None:
    assert load_feature_sets().get("equities_daily").names == FEATURE_NAMES
