"""The point-in-time rules: no look-ahead, no rewriting of what was known, no wrong answer from a bounded history."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_svc.pit import (
    KEPT_PRINTS,
    History,
    Policy,
    Print,
    RawFeature,
    Status,
    Violation,
    check_print,
    check_times,
    select,
    status_of,
)

POLICIES = st.sampled_from(get_args(Policy))


@st.composite
def arrivals(draw: st.DrawFn, most: int = 30) -> list[Print]:
    """Prints in the order of arrival, many of them late, restated or at the same instant."""
    count = draw(st.integers(0, most))
    prints = []
    for sequence in range(count):
        event = draw(st.integers(0, 12))
        delay = draw(st.integers(0, 15))
        prints.append(Print(event, event + delay, sequence, sequence, float(sequence)))
    return prints


def naive(prints: list[Print], as_of_us: int, policy: Policy) -> Print | None:
    """The rules, said as in the design."""
    usable = [p for p in prints if p.event_time_us <= as_of_us and p.available_at_us <= as_of_us]
    if not usable:
        return None
    newest = max(p.event_time_us for p in usable)
    of_newest = [p for p in usable if p.event_time_us == newest]
    if policy == "first_print":
        return min(of_newest, key=lambda p: (p.available_at_us, p.sequence))
    return max(of_newest, key=lambda p: (p.available_at_us, p.sequence))


@given(arrivals(), st.integers(-1, 30), POLICIES)
def test_select_is_the_rule(prints: list[Print], as_of_us: int, policy: Policy) -> None:
    assert select(sorted(prints), as_of_us, policy) == naive(prints, as_of_us, policy)


@given(arrivals(), st.integers(-1, 30), POLICIES)
def test_no_look_ahead(prints: list[Print], as_of_us: int, policy: Policy) -> None:
    known = [p for p in prints if p.event_time_us <= as_of_us and p.available_at_us <= as_of_us]
    assert select(sorted(prints), as_of_us, policy) == select(sorted(known), as_of_us, policy)


@given(arrivals(), arrivals(), st.integers(-1, 30), POLICIES)
def test_late_prints_change_no_past_answer(
    before: list[Print], late: list[Print], as_of_us: int, policy: Policy
) -> None:
    after = [
        p._replace(available_at_us=as_of_us + 1 + p.available_at_us, sequence=len(before) + p.sequence) for p in late
    ]
    assert select(sorted(before + after), as_of_us, policy) == select(sorted(before), as_of_us, policy)


@given(arrivals(most=60), POLICIES)
def test_a_bounded_history_is_right_or_silent(prints: list[Print], policy: Policy) -> None:
    history = History()
    for count, new in enumerate(prints, 1):
        history.add(new)
        assert len(history.prints) <= KEPT_PRINTS
        for as_of_us in range(-1, 30):
            expected = naive(prints[:count], as_of_us, policy)
            answered = history.select(as_of_us, policy)
            assert answered == (expected if as_of_us >= history.complete_from_us else None)


@given(arrivals(most=60), POLICIES)
def test_a_bounded_history_knows_the_present(prints: list[Print], policy: Policy) -> None:
    history = History()
    for count, new in enumerate(prints, 1):
        history.add(new)
        now_us = max(p.available_at_us for p in prints[:count])
        assert history.select(now_us, policy) == naive(prints[:count], now_us, policy) is not None


def test_a_history_that_forgets_nothing_answers_every_instant() -> None:
    history = History()
    for day in range(KEPT_PRINTS):
        history.add(Print(day, day, day, 0, 1.0))
    found = history.select(0, "latest_known")
    assert found is not None
    assert found.event_time_us == 0
    history.add(Print(KEPT_PRINTS, KEPT_PRINTS, KEPT_PRINTS, 0, 1.0))
    assert history.select(0, "latest_known") is None


def test_equal_instants_are_usable_and_the_policies_differ_on_a_restatement() -> None:
    prints = [Print(10, 20, 0, 0, 1.0), Print(10, 30, 1, 1, 2.0)]
    assert select(prints, 19, "latest_known") is None
    assert select(prints, 20, "latest_known") == prints[0]
    assert select(prints, 29, "latest_known") == prints[0]
    assert select(prints, 30, "latest_known") == prints[1]
    assert select(prints, 30, "first_print") == prints[0]


def test_of_one_instant_the_later_arrival_counts() -> None:
    prints = [Print(10, 20, 0, 0, 1.0), Print(10, 20, 1, 1, 2.0)]
    assert select(prints, 20, "latest_known") == prints[1]
    assert select(prints, 20, "first_print") == prints[0]


def test_find_knows_a_print_by_its_identity() -> None:
    history = History()
    prints = [Print(1, 1, 0, 0, 1.0), Print(2, 2, 1, 0, 2.0), Print(2, 3, 2, 1, 3.0), Print(4, 4, 3, 0, 4.0)]
    for new in prints:
        history.add(new)
    assert history.find(2, 0) == prints[1]
    assert history.find(2, 1) == prints[2]
    assert history.find(2, 2) is None
    assert history.find(3, 0) is None


@pytest.mark.parametrize(
    ("age_us", "ttl_us", "status"),
    [(100, 100, Status.OK), (101, 100, Status.STALE), (10**15, 0, Status.OK), (0, 1, Status.OK)],
)
def test_the_time_to_live_is_inclusive_and_runs_from_the_event_time(age_us: int, ttl_us: int, status: Status) -> None:
    assert status_of(Print(1000, 1000 + age_us, 0, 0, 1.0), 1000 + age_us, ttl_us) is status


def test_nothing_found_is_missing() -> None:
    assert status_of(None, 0, 0) is Status.MISSING


GOOD = RawFeature("AAPL", "return_1d", 0.1, 1_000, 2_000, "vendor", 0, "id")


def check(raw: RawFeature) -> Violation | None:
    return check_print(raw, {"AAPL"}, {"return_1d"}, now_us=10_000, skew_us=5)


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"symbol": ""}, "INVALID_FIELD", "symbol"),
        ({"symbol": "A" * 65}, "INVALID_FIELD", "symbol"),
        ({"symbol": "MSFT"}, "UNKNOWN_SYMBOL", "symbol"),
        ({"name": ""}, "INVALID_FIELD", "name"),
        ({"name": "n" * 129}, "INVALID_FIELD", "name"),
        ({"name": "unheard_of"}, "UNKNOWN_FEATURE", "name"),
        ({"value": math.nan}, "NON_FINITE", "value"),
        ({"value": -math.inf}, "NON_FINITE", "value"),
        ({"source": "s" * 65}, "INVALID_FIELD", "source"),
        ({"print_number": 65_536}, "INVALID_FIELD", "print_number"),
        ({"event_time_us": None}, "MISSING_TIME", "event_time"),
        ({"available_at_us": None}, "MISSING_TIME", "available_at"),
        ({"available_at_us": 999}, "LOOK_AHEAD", "available_at"),
        ({"available_at_us": 10_006}, "FROM_THE_FUTURE", "available_at"),
        ({"event_time_us": 10_006, "available_at_us": 10_006}, "FROM_THE_FUTURE", "event_time"),
    ],
)
def test_each_rule_names_its_reason_and_field(change: dict[str, object], reason: str, field: str) -> None:
    violation = check(GOOD._replace(**change))  # type: ignore[arg-type]
    assert violation is not None
    assert (violation.reason, violation.field) == (reason, field)


def test_bounds_are_allowed() -> None:
    assert check(GOOD) is None
    assert check_times(10_005, 10_005, 10_000, 5) is None
    assert check_times(7, 7, 10_000, 5) is None
