"""What pairs say of a challenger beside its champion. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference_svc.signals import direction
from quantmesh.streams.v1.shadow_pair_pb2 import ShadowPair

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latency:
    """Of a model's calls, microseconds."""

    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Of pairs of one champion and one challenger. NaN where the pairs do not say."""

    pairs: int
    correlation: float
    """Pearson's, of the predictions; NaN below two pairs, or when one model always says the same."""
    mean_abs_difference: float
    """Of the predictions, in their unit."""
    same_direction: float
    """Share of the pairs of which both models would make the same signal, each by its own threshold."""
    champion: Latency
    challenger: Latency


def distinct(pairs: Sequence[ShadowPair]) -> list[ShadowPair]:
    """Without what a repeated commit has recorded twice; requests without an identity are all different."""
    found: dict[object, ShadowPair] = {}
    for number, pair in enumerate(pairs):
        key = (pair.request_id, pair.row, pair.challenger.model_version, pair.generation)
        found[key if pair.request_id else number] = pair
    return list(found.values())


def summarize(pairs: Sequence[ShadowPair]) -> Summary:
    """Compare the two sides of pairs."""
    champion = np.array([pair.champion.prediction for pair in pairs])
    challenger = np.array([pair.challenger.prediction for pair in pairs])
    same = [
        direction(pair.champion.prediction, pair.champion_threshold)
        == direction(pair.challenger.prediction, pair.challenger_threshold)
        for pair in pairs
    ]
    return Summary(
        pairs=len(pairs),
        correlation=_correlation(champion, challenger),
        mean_abs_difference=float(np.abs(champion - challenger).mean()) if pairs else math.nan,
        same_direction=float(np.mean(same)) if pairs else math.nan,
        champion=_latency([pair.champion.latency_us for pair in pairs]),
        challenger=_latency([pair.challenger.latency_us for pair in pairs]),
    )


def _correlation(one: Values, other: Values) -> float:
    if len(one) < 2 or not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])


def _latency(latencies_us: Sequence[float]) -> Latency:
    if not latencies_us:
        return Latency(math.nan, math.nan)
    p50, p99 = np.percentile(latencies_us, [50, 99])
    return Latency(float(p50), float(p99))
