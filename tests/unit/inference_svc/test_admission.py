"""Whom the rule lets in, and what a call is expected to cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_svc.admission import MIN_RETRY_S, Admission, Terms
from inference_svc.costs import Cost
from runtime.errors import DeadlineExceededError, ResourceExhaustedError

RULE = Admission(target_s=0.05, max_rows=100)


def verdict(terms: Terms, *, wait_s: float, own_s: float = 0.001, waiting_rows: int = 1, rows: int = 1) -> str:
    try:
        RULE.check(terms, 10.0, wait_s=wait_s, own_s=own_s, waiting_rows=waiting_rows, rows=rows)
    except (ResourceExhaustedError, DeadlineExceededError) as error:
        return error.reason
    return "admitted"


@pytest.mark.parametrize(
    ("terms", "wait_s", "own_s", "expected"),
    [
        (Terms(), 0.034, 0.001, "admitted"),
        (Terms(), 0.036, 0.001, "OVERLOADED"),  # the slowest of a hundred would be too late
        (Terms(deadline=10.010), 0.008, 0.001, "admitted"),
        (Terms(deadline=10.010), 0.010, 0.001, "OVERLOADED"),
        (Terms(deadline=10.0), 0.0, 0.001, "DEADLINE_EXCEEDED"),
        (Terms(), 0.0, 0.2, "admitted"),  # slow by itself: waiting would not make it faster
        (Terms(), 0.001, 0.2, "OVERLOADED"),
        (Terms(patient=True), 5.0, 0.2, "admitted"),
        (Terms(patient=True, deadline=9.0), 5.0, 0.2, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_call_is_let_in_when_its_answer_would_be_in_time(
    terms: Terms, wait_s: float, own_s: float, expected: str
) -> None:
    assert verdict(terms, wait_s=wait_s, own_s=own_s) == expected


def test_what_waits_is_bounded_but_a_call_alone_may_be_big() -> None:
    assert verdict(Terms(), wait_s=0.0, waiting_rows=99, rows=1) == "admitted"
    assert verdict(Terms(), wait_s=0.0, waiting_rows=99, rows=2) == "QUEUE_FULL"
    assert verdict(Terms(), wait_s=0.0, waiting_rows=0, rows=4096) == "admitted"


def test_who_is_refused_is_told_when_to_come_back() -> None:
    with pytest.raises(ResourceExhaustedError) as refused:
        RULE.check(Terms(), 10.0, wait_s=0.3, own_s=0.1, waiting_rows=1, rows=1)
    assert refused.value.retry_after_s == 0.3
    with pytest.raises(ResourceExhaustedError) as refused:
        RULE.check(Terms(), 10.0, wait_s=0.0, own_s=0.1, waiting_rows=100, rows=1)
    assert refused.value.retry_after_s == MIN_RETRY_S


@given(fixed=st.floats(1e-6, 1.0), each=st.floats(1e-7, 0.1), rows=st.integers(1, 4096))
def test_a_cost_is_the_line_through_its_two_calls(fixed: float, each: float, rows: int) -> None:
    cost = Cost.of_calls((1, fixed + each), (32, fixed + 32 * each))
    assert cost.of(rows) == pytest.approx(fixed + rows * each, rel=1e-3, abs=1e-9)
    assert cost.of_calls_of(32, 70) == pytest.approx(2 * cost.of(32) + cost.of(6))


def test_a_cost_follows_what_calls_take_but_not_one_pause() -> None:
    cost = Cost.of_calls((1, 0.001), (32, 0.032))
    cost.seen(1, 10.0)
    assert cost.of(1) < 0.002
    for _ in range(200):
        cost.seen(1, 0.003)
    assert cost.of(1) == pytest.approx(0.003, rel=0.05)


def test_a_cost_that_was_never_measured_is_learnt_from_the_first_call() -> None:
    cost = Cost()
    assert cost.of(100) == 0.0
    cost.seen(10, 0.01)
    assert cost.of(100) == pytest.approx(0.1)


def test_a_bigger_call_that_was_faster_gives_no_negative_cost() -> None:
    cost = Cost.of_calls((1, 0.002), (32, 0.001))
    assert cost.of(1000) >= 0.0
