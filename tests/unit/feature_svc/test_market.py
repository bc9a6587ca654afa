"""When a session closes, which ticks are refused, and that neither depends on how the partitions were read."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_svc.features import FEATURE_NAMES, compute_panel
from feature_svc.market import SILENCE_US, CrossSection, Market, Tick

DAY = 86_400_000_000
T0 = 1_000 * DAY
NOW = 10_000 * DAY
UNIVERSE = ("A", "B", "C", "D")
LANES = {"A": 0, "B": 0, "C": 1, "D": 1}
RETURN = FEATURE_NAMES.index("return_1d")


def market() -> Market:
    return Market(UNIVERSE, LANES.__getitem__)


def tick(symbol: str, day: int, price: float = 10.0, delay_us: int = 60) -> Tick:
    return Tick(symbol, T0 + day * DAY, T0 + day * DAY + delay_us, price)


def take(into: Market, *ticks: Tick) -> list[str]:
    """Give ticks; returns the reasons of those refused."""
    violations = [into.accept(each, NOW, 0, f"trace of {each.symbol}") for each in ticks]
    return [violation.reason for violation in violations if violation is not None]


def days(sections: Sequence[CrossSection]) -> list[int]:
    return [(section.event_time_us - T0) // DAY for section in sections]


def test_a_session_closes_with_its_last_tick() -> None:
    m = market()
    assert take(m, tick("A", 0), tick("B", 0, delay_us=500), tick("C", 0)) == []
    assert list(m.close()) == []
    assert take(m, tick("D", 0)) == []
    (section,) = m.close()
    assert section.event_time_us == T0
    assert section.available_at_us == T0 + 500, "the cross-section is known when its last close is"
    assert section.traceparents == {symbol: f"trace of {symbol}" for symbol in UNIVERSE}
    assert list(m.close()) == []


def test_a_later_tick_shows_that_a_symbol_has_none() -> None:
    m = market()
    take(m, *(tick(symbol, 0) for symbol in UNIVERSE), *(tick(symbol, 1, 11.0) for symbol in "ABC"))
    assert days(list(m.close())) == [0]
    take(m, tick("D", 2))
    (section,) = m.close()
    assert days([section]) == [1]
    assert set(section.traceparents) == {"A", "B", "C"}
    assert section.values[:3, RETURN].tolist() == pytest.approx([0.1] * 3)
    assert math.isnan(section.values[3, RETURN])


def test_a_silent_symbol_holds_its_partition_up_for_seven_days_only() -> None:
    m = market()
    take(m, *(tick(symbol, 0) for symbol in UNIVERSE))
    for day in range(1, 8):
        take(m, *(tick(symbol, day) for symbol in "ABC"))
    assert days(list(m.close())) == [0]
    take(m, tick("C", 8))
    assert days(list(m.close())) == [], "exactly seven days behind is not over"
    take(m, Tick("C", T0 + 8 * DAY + 1, T0 + 8 * DAY + 1, 10.0))
    assert days(list(m.close())) == [1]
    assert take(m, tick("D", 1)) == ["LATE_TICK"]
    assert take(m, tick("D", 2)) == []


def test_another_partition_running_ahead_closes_nothing() -> None:
    m = market()
    for day in range(400):
        take(m, tick("A", day), tick("B", day))
    assert list(m.close()) == []
    assert take(m, *(tick(symbol, day) for day in range(400) for symbol in "CD")) == []
    assert days(list(m.close())) == list(range(400))


def test_ticks_of_a_symbol_come_in_order_and_a_repeat_is_no_error() -> None:
    m = market()
    assert take(m, tick("A", 1, 10.0), tick("A", 1, 10.0)) == []
    assert take(m, tick("A", 1, 12.0)) == ["LATE_TICK"]
    assert take(m, tick("A", 0)) == ["LATE_TICK"]


def test_an_earlier_close_that_became_known_late_delays_what_uses_it() -> None:
    m = market()
    take(m, *(tick(symbol, 0, delay_us=3 * DAY if symbol == "A" else 0) for symbol in UNIVERSE))
    take(m, *(tick(symbol, 1, delay_us=0) for symbol in UNIVERSE))
    assert [section.available_at_us - T0 for section in m.close()] == [3 * DAY, 3 * DAY]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (tick("ZZZ", 0), "UNKNOWN_SYMBOL"),
        (tick("A", 0, 0.0), "BAD_PRICE"),
        (tick("A", 0, -1.0), "BAD_PRICE"),
        (tick("A", 0, math.nan), "BAD_PRICE"),
        (tick("A", 0, math.inf), "BAD_PRICE"),
        (tick("A", 0)._replace(event_time_us=None), "MISSING_TIME"),
        (tick("A", 0)._replace(available_at_us=None), "MISSING_TIME"),
        (tick("A", 0, delay_us=-1), "LOOK_AHEAD"),
        (tick("A", 9_001), "FROM_THE_FUTURE"),
    ],
)
def test_bad_ticks_are_refused_and_leave_no_trace(bad: Tick, reason: str) -> None:
    m = market()
    assert take(m, bad) == [reason]
    take(m, *(tick(symbol, 5) for symbol in UNIVERSE))
    assert days(list(m.close())) == [5]


def test_cross_sections_are_the_rows_of_the_panel_bit_for_bit() -> None:
    closes = 20.0 + np.random.default_rng(3).random((300, len(UNIVERSE)))
    m = market()
    sections = []
    for day in range(300):
        take(m, *(tick(symbol, day, float(closes[day, place])) for place, symbol in enumerate(UNIVERSE)))
        sections += list(m.close())
    assert np.stack([section.values for section in sections]).tobytes() == compute_panel(closes).tobytes()


def lanes_of(seed: int, sessions: int) -> dict[int, list[Tick]]:
    """Ticks of each partition in order, with gaps, silences, repeats and late ones."""
    rng = random.Random(seed)
    lanes: dict[int, list[Tick]] = {0: [], 1: []}
    for day in range(sessions):
        for symbol in rng.sample(UNIVERSE, len(UNIVERSE)):
            silent = symbol == "B" and sessions // 3 < day < sessions // 3 + 12
            if silent or rng.random() < 0.1:
                continue
            lane = lanes[LANES[symbol]]
            lane.append(tick(symbol, day, rng.uniform(5, 15), rng.randrange(100)))
            if rng.random() < 0.1:
                lane.append(rng.choice(lane))
            if rng.random() < 0.05:
                lane.append(tick(symbol, max(0, day - rng.randrange(12)), rng.uniform(5, 15)))
    return lanes


def emitted(sections: Sequence[CrossSection]) -> list[tuple[int, int, bytes, tuple[str, ...]]]:
    return [
        (section.event_time_us, section.available_at_us, section.values.tobytes(), tuple(sorted(section.traceparents)))
        for section in sections
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(20, 60))
def test_restarts_and_other_interleavings_emit_the_same(seed: int, reading: int, sessions: int) -> None:
    """Read in batches of any size, crash with any of them half committed, rebuild, read again: the same set."""
    lanes = lanes_of(seed, sessions)
    straight = market()
    for lane in lanes.values():
        take(straight, *lane)
    expected = emitted(list(straight.close()))

    rng = random.Random(reading)
    committed = dict.fromkeys(lanes, 0)
    position = dict(committed)
    m = market()
    seen: dict[int, tuple[int, int, bytes, tuple[str, ...]]] = {}
    while committed != {number: len(lane) for number, lane in lanes.items()}:
        for number, lane in lanes.items():
            end = min(len(lane), position[number] + rng.randrange(12))
            take(m, *lane[position[number] : end])
            position[number] = end
        for each in emitted(list(m.close())):
            assert seen.setdefault(each[0], each) == each, "published twice, and not the same"
        committed = {number: rng.choice((at, position[number])) for number, at in committed.items()}
        if committed != position or rng.random() < 0.2:  # a crash
            position = dict(committed)
            m = market()
            for number in rng.sample(list(lanes), len(lanes)):
                take(m, *lanes[number][: committed[number]])
            m.close_silently()
    assert list(seen.values()) == expected
    assert len(expected) > sessions - 10


def test_what_lies_before_the_window_does_not_matter() -> None:
    ticks = [
        tick(symbol, day, 5 + (day * 7 + place) % 11) for day in range(320) for place, symbol in enumerate(UNIVERSE)
    ]
    whole, part = market(), market()
    take(whole, *ticks[: 300 * 4])
    take(part, *ticks[40 * 4 : 300 * 4])
    whole.close_silently()
    part.close_silently()
    assert part.remembers_from(T0 + 40 * DAY)
    assert not part.remembers_from(T0 + 47 * DAY)
    take(whole, *ticks[300 * 4 :])
    take(part, *ticks[300 * 4 :])
    assert emitted(list(whole.close())) == emitted(list(part.close()))
    assert SILENCE_US == 7 * DAY
