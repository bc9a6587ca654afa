"""What the signals were worth: hit rate, and Sharpe ratio after costs against buy-and-hold. Pure functions.

Execution is conservative: a signal of session t is known after its close, so it is traded at the close of t+1 and
earns from there on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SESSIONS_PER_YEAR = 252
COST_BPS = 5.0
"""Cost of trading one dollar one way, in basis points: commission, half of the spread and slippage of a large cap."""


@dataclass(frozen=True, slots=True)
class Performance:
    """Daily returns after costs, in figures."""

    sharpe: float
    """Mean over standard deviation of the daily returns, times √252; no risk-free rate is taken off."""
    annual_return: float
    """Mean daily return times 252, as a fraction."""
    max_drawdown: float
    """Largest loss from the running peak of the compounded capital, as a non-positive fraction of that peak. The
    capital at the start is a peak."""
    turnover: float
    """Traded dollars of an average session for each dollar of capital, one way."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The signals beside buy-and-hold."""

    hit_rate: float
    """Share of LONG and SHORT signals whose relative return had their sign. The horizon begins when they can be
    traded."""
    hit_count: int
    """Signals behind the hit rate."""
    strategy: Performance
    buy_and_hold: Performance


def performance(weights: NDArray[np.float64], returns: NDArray[np.float64], cost_bps: float = COST_BPS) -> Performance:
    """Figures of a portfolio: `weights` [sessions, symbols] held over the `returns` [sessions, symbols] of that row.

    Weights are set anew for each session; a change of weight is paid for, the first row from zero. The drift of weights
    within a session is left out.
    """
    changes = np.abs(np.diff(weights, axis=0, prepend=np.zeros((1, weights.shape[1])))).sum(axis=1)
    daily = (weights * returns).sum(axis=1) - changes * cost_bps / 10_000
    capital = np.concatenate([[1.0], np.cumprod(1.0 + daily)])
    deviation = float(daily.std(ddof=1))
    return Performance(
        sharpe=float(daily.mean() / deviation * np.sqrt(SESSIONS_PER_YEAR)) if deviation > 0 else 0.0,
        annual_return=float(daily.mean() * SESSIONS_PER_YEAR),
        max_drawdown=float((capital / np.maximum.accumulate(capital) - 1.0).min()),
        turnover=float(changes.mean()),
    )


def evaluate(
    directions: NDArray[np.int8], closes: NDArray[np.float64], relative_forward: NDArray[np.float64]
) -> Evaluation:
    """Judge signals: `directions` [sessions, symbols] is 1 (LONG), -1 (SHORT) or 0, for the sessions of `closes`.

    `relative_forward` [sessions, symbols] is the relative return over the horizon from each session on, NaN where it is
    not known yet.
    """
    made, outcome = directions[:-1], relative_forward[1:]  # traded one session later
    taken = (made != 0) & np.isfinite(outcome)
    hits = np.sign(outcome[taken]) == made[taken]
    returns = closes[1:] / closes[:-1] - 1.0
    symbols = closes.shape[1]
    # Traded at the close of t+1, held to the close of t+2: row t of the directions meets row t+1 of the returns.
    earned = returns[1:]
    weights = directions[:-2].astype(np.float64) / symbols
    held = np.full_like(earned, 1.0 / symbols)
    return Evaluation(
        hit_rate=float(hits.mean()) if taken.any() else float("nan"),
        hit_count=int(taken.sum()),
        strategy=performance(weights, earned),
        buy_and_hold=performance(held, earned),
    )
