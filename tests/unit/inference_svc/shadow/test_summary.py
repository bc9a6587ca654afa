"""What pairs say, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from inference_svc.shadow.summary import distinct, summarize
from quantmesh.streams.v1.shadow_pair_pb2 import ShadowPair, ShadowScore


def pair(champion: float, challenger: float, request_id: str = "r", row: int = 0, us: float = 10.0) -> ShadowPair:
    return ShadowPair(
        request_id=request_id,
        row=row,
        generation=1,
        champion=ShadowScore(prediction=champion, latency_us=us),
        challenger=ShadowScore(prediction=challenger, latency_us=2 * us),
        champion_threshold=0.5,
        challenger_threshold=1.5,
    )


def test_what_pairs_say() -> None:
    found = summarize([pair(1, 2, us=10), pair(2, 4, us=20), pair(3, 6, us=30), pair(-1, 0, us=40)])
    assert found.pairs == 4
    assert found.mean_abs_difference == pytest.approx((1 + 2 + 3 + 1) / 4)
    # Champion: long, long, long, short by its 0.5; challenger: long, long, long, flat by its 1.5.
    assert found.same_direction == 0.75
    assert found.correlation == pytest.approx(13 / math.sqrt(8.75 * 20))
    assert (found.champion.p50_us, found.challenger.p50_us) == (25.0, 50.0)
    assert found.champion.p99_us == pytest.approx(39.7)


def test_pairs_that_do_not_say_give_nan() -> None:
    nothing = summarize([])
    assert nothing.pairs == 0
    assert all(
        math.isnan(value)
        for value in (nothing.correlation, nothing.mean_abs_difference, nothing.same_direction, nothing.champion.p99_us)
    )
    assert math.isnan(summarize([pair(1, 2)]).correlation)
    assert math.isnan(summarize([pair(1, 2), pair(1, 3)]).correlation)


def test_what_was_recorded_twice_counts_once_and_requests_without_an_id_all() -> None:
    found = distinct([pair(1, 2), pair(1, 2), pair(1, 2, row=1), pair(1, 2, ""), pair(1, 2, "")])
    assert [(each.request_id, each.row) for each in found] == [("r", 0), ("r", 1), ("", 0), ("", 0)]
