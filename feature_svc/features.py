"""Features of a panel of daily closes: pure, vectorised, and the same to the last bit in bulk and one day at a time.

Two entries share one body. `compute_panel` serves research and training; `compute_last` serves the live stream. They
agree bit for bit because both reduce contiguous windows along the last axis, and because nothing but + - * / and
square root is used, each of which IEEE 754 rounds correctly on every machine.

NaN policy: a close that is missing is NaN, and so is every feature whose window holds one. Closes must be positive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

WINDOW = 253
"""Sessions that the longest feature looks at, the day itself included."""

_CHUNK_BYTES = 4_000_000
"""Bytes of windows that `compute_panel` lays out at once: about what a processor's cache holds."""


def simple_return(closes: Array, sessions: int) -> Array:
    """Return over the last sessions: c[t] / c[t - sessions] - 1.

    Parameters
    ----------
    closes : [..., W], W > sessions, in any currency
    sessions : how far back

    Returns
    -------
    [...], a fraction: 0.01 is one per cent
    """
    return closes[..., -1] / closes[..., -1 - sessions] - 1.0


def momentum_12_1(closes: Array) -> Array:
    """Return of the 11 months that ended a month ago: c[t - 21] / c[t - 252] - 1 (Jegadeesh and Titman 1993).

    closes [..., 253] → [...], a fraction.
    """
    return closes[..., -22] / closes[..., -253] - 1.0


def volatility(returns: Array, sessions: int) -> Array:
    """Sample standard deviation of daily returns, sqrt(sum((r - mean(r))²) / (sessions - 1)); not annualised.

    returns [..., ≥ sessions] → [...], a fraction per day.
    """
    return _sample_deviation(returns[..., -sessions:])


def downside_volatility(returns: Array, sessions: int) -> Array:
    """Root mean square of the losses, sqrt(mean(min(r, 0)²)); not annualised.

    returns [..., ≥ sessions] → [...], a fraction per day.
    """
    losses = np.minimum(returns[..., -sessions:], 0.0)
    return np.sqrt(_sum(losses * losses) / sessions)


def ma_ratio(closes: Array, sessions: int) -> Array:
    """Distance from the moving average: c[t] / mean(c[t - sessions + 1 .. t]) - 1.

    closes [..., ≥ sessions] → [...], a fraction.
    """
    return closes[..., -1] / (_sum(closes[..., -sessions:]) / sessions) - 1.0


def rsi(closes: Array, sessions: int) -> Array:
    """Cutler's relative strength index: 100 G / (G + L), G the sum of the rises and L of the falls of the closes.

    50 when no close moved. closes [..., > sessions] → [...], 0 to 100.
    """
    changes = closes[..., -sessions:] - closes[..., -sessions - 1 : -1]
    rises = _sum(np.maximum(changes, 0.0))
    moves = rises + _sum(np.maximum(-changes, 0.0))
    still = moves == 0.0
    return np.where(still, 50.0, 100.0 * (rises / np.where(still, 1.0, moves)))


def zscore(closes: Array, sessions: int) -> Array:
    """Distance from the moving average in sample standard deviations of the closes; 0 when no close moved.

    closes [..., ≥ sessions] → [...], no unit.
    """
    window = closes[..., -sessions:]
    flat = _max(window) == -_max(-window)
    distance = window[..., -1] - _sum(window) / sessions
    return np.where(flat, 0.0, distance / np.where(flat, 1.0, _sample_deviation(window)))


def drawdown(closes: Array, sessions: int) -> Array:
    """Distance from the highest close: c[t] / max(c[t - sessions + 1 .. t]) - 1.

    closes [..., ≥ sessions] → [...], a fraction, never positive.
    """
    return closes[..., -1] / _max(closes[..., -sessions:]) - 1.0


def max_return(returns: Array, sessions: int) -> Array:
    """The best daily return (Bali, Cakici and Whitelaw 2011). returns [..., ≥ sessions] → [...], a fraction."""
    return _max(returns[..., -sessions:])


def rank(values: Array) -> Array:
    """Rank within each cross-section, from -0.5 for the lowest to 0.5 for the highest.

    Ties share the mean of their ranks; NaN has no rank and takes no place; the only one there is gets 0.

    values [..., S] → [..., S], no unit.
    """
    known = ~np.isnan(values)
    below = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    ties = (values[..., None, :] == values[..., :, None]).sum(axis=-1) - 1
    others = known.sum(axis=-1, keepdims=True) - 1
    scaled = np.where(others == 0, 0.0, (below + 0.5 * ties) / np.maximum(others, 1) - 0.5)
    return np.where(known, scaled, np.nan)


_OF_ONE_SYMBOL: Mapping[str, Callable[[Array, Array], Array]] = {
    "return_1d": lambda closes, _: simple_return(closes, 1),
    "return_5d": lambda closes, _: simple_return(closes, 5),
    "return_21d": lambda closes, _: simple_return(closes, 21),
    "momentum_63d": lambda closes, _: simple_return(closes, 63),
    "momentum_12_1": lambda closes, _: momentum_12_1(closes),
    "volatility_21d": lambda _, returns: volatility(returns, 21),
    "volatility_63d": lambda _, returns: volatility(returns, 63),
    "downside_volatility_21d": lambda _, returns: downside_volatility(returns, 21),
    "ma_ratio_10d": lambda closes, _: ma_ratio(closes, 10),
    "ma_ratio_50d": lambda closes, _: ma_ratio(closes, 50),
    "ma_ratio_200d": lambda closes, _: ma_ratio(closes, 200),
    "rsi_14d": lambda closes, _: rsi(closes, 14),
    "zscore_20d": lambda closes, _: zscore(closes, 20),
    "drawdown_63d": lambda closes, _: drawdown(closes, 63),
    "max_return_21d": lambda _, returns: max_return(returns, 21),
}
_RANK_OF: Mapping[str, str] = {"return_rank_1d": "return_1d", "momentum_rank_63d": "momentum_63d"}

FEATURE_NAMES: tuple[str, ...] = (*_OF_ONE_SYMBOL, *_RANK_OF)
"""Names of the features, in the order of the last axis of what is computed."""


def compute_panel(closes: Array) -> Array:
    """Every feature of every day and symbol.

    Parameters
    ----------
    closes : [T, S], positive closes by session and symbol; NaN where there is none

    Returns
    -------
    [T, S, F] in the order of FEATURE_NAMES; NaN where the history is too short or has a hole
    """
    sessions, symbols = _shape(closes)
    panel = np.empty((sessions, symbols, len(FEATURE_NAMES)))
    windows = sliding_window_view(_with_history(closes), WINDOW, axis=0)  # [T, S, W], a view
    step = max(1, _CHUNK_BYTES // (8 * WINDOW * max(1, symbols)))
    for start in range(0, sessions, step):
        panel[start : start + step] = _features(np.ascontiguousarray(windows[start : start + step]))
    return panel


def compute_last(closes: Array) -> Array:
    """Every feature of the last day: bit for bit `compute_panel(closes)[-1]`, from the last WINDOW rows alone.

    closes [≥ 1, S] → [S, F].
    """
    _shape(closes)
    window = _with_history(closes[-WINDOW:])[-WINDOW:]
    features: Array = _features(np.ascontiguousarray(window.T)[None])[0]
    return features


def _features(windows: Array) -> Array:
    """Features of cross-sections, [N, S, WINDOW] contiguous → [N, S, F]."""
    returns = windows[..., 1:] / windows[..., :-1] - 1.0
    columns = {name: feature(windows, returns) for name, feature in _OF_ONE_SYMBOL.items()}
    columns |= {name: rank(columns[ranked]) for name, ranked in _RANK_OF.items()}
    features: Array = np.stack([columns[name] for name in FEATURE_NAMES], axis=-1)
    return features


def _sample_deviation(values: Array) -> Array:
    count = values.shape[-1]
    deviations = values - _sum(values)[..., None] / count
    deviation: Array = np.sqrt(_sum(deviations * deviations) / (count - 1))
    return deviation


def _sum(values: Array) -> Array:
    total: Array = values.sum(axis=-1)
    return total


def _max(values: Array) -> Array:
    highest: Array = values.max(axis=-1)
    return highest


def _with_history(closes: Array) -> Array:
    """The closes after WINDOW - 1 sessions of which nothing is known."""
    return np.concatenate([np.full((WINDOW - 1, closes.shape[1]), np.nan), closes])


def _shape(closes: Array) -> tuple[int, int]:
    if closes.ndim != 2 or closes.dtype != np.float64:
        raise ValueError(f"closes must be float64 [T, S]; they are {closes.dtype} with {closes.ndim} dimensions")
    return closes.shape[0], closes.shape[1]
