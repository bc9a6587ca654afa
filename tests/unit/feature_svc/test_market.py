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
from feature_svc.market import CrossSection, Market, Taken, Tick
from feature_svc.pit import Violation
from feature_svc.progress import NEVER_US, SILENCE_US

DAY = 86_400_000_000
HOUR = DAY // 24
T0 = 1_000 * DAY
NOW = 10_000 * DAY
UNIVERSE = ("A", "B", "C", "D")
LANES = {"A": 0, "B": 0, "C": 1, "D": 1}
RETURN = FEATURE_NAMES.index("return_1d")


def market() -> Market:
    return Market(UNIVERSE, lambda event_time_us: event_time_us % HOUR == 0, LANES.__getitem__)


def tick(symbol: str, day: int, price: float = 10.0, delay_us: int = 60) -> Tick:
    return Tick(symbol, T0 + day * DAY, T0 + day * DAY + delay_us, price)


def take(into: Market, *ticks: Tick) -> list[str]:
    """Give ticks; returns the reasons of those refused."""
    outcomes = [into.accept(each, NOW, 0, f"trace of {each.symbol}") for each in ticks]
    return [outcome.reason for outcome in outcomes if isinstance(outcome, Violation)]


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
    take(m, Tick("C", T0 + 8 * DAY + HOUR, T0 + 8 * DAY + HOUR, 10.0))
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


def test_that_a_symbol_has_no_close_is_known_with_the_tick_that_shows_it() -> None:
    m = market()
    take(m, *(tick(symbol, 0) for symbol in UNIVERSE), *(tick(symbol, 1) for symbol in "ABC"), tick("D", 2, delay_us=7))
    assert [section.available_at_us - T0 for section in m.close()] == [60, 2 * DAY + 7]


def test_that_a_symbol_is_silent_is_known_with_the_tick_that_shows_it() -> None:
    m = market()
    take(m, *(tick(symbol, 0) for symbol in UNIVERSE), *(tick(symbol, 1) for symbol in "ABC"))
    take(m, *(tick("C", day, delay_us=day) for day in (8, 9, 10)))
    assert [section.available_at_us - T0 for section in m.close()] == [60, 9 * DAY + 9]


def test_an_absence_shown_before_anybody_else_had_the_session_counts_too() -> None:
    m = market()
    take(m, *(tick(symbol, 0) for symbol in UNIVERSE), tick("A", 2, delay_us=5), tick("B", 2, delay_us=9))
    take(m, tick("C", 1), tick("D", 1))
    assert [section.available_at_us - T0 for section in m.close()] == [60, 2 * DAY + 9]


def test_trade_prints_and_other_symbols_are_skipped_and_change_nothing() -> None:
    quiet, busy = market(), market()
    skipped = [
        (tick("A", 3)._replace(size=100.0), Taken.INTRADAY),  # a trade at the very instant of the close
        (Tick("A", T0 + 3 * DAY + 1, T0 + 3 * DAY + 1, 10.0), Taken.INTRADAY),
        (Tick("A", T0 + 300 * DAY + 1, T0 + 300 * DAY + 1, 10.0), Taken.INTRADAY),
        (tick("ZZZ", 3), Taken.UNKNOWN_SYMBOL),
        (tick("ZZZ", 300)._replace(price=math.nan), Taken.UNKNOWN_SYMBOL),
    ]
    sections = []
    for day in range(30):
        for symbol in UNIVERSE:
            take(quiet, tick(symbol, day, 10.0 + day % 7))
            take(busy, tick(symbol, day, 10.0 + day % 7))
            for each, outcome in skipped:
                assert busy.accept(each, NOW, 0) is outcome
        sections.append(emitted(list(busy.close())))
        assert sections[-1] == emitted(list(quiet.close())) != []


def test_a_market_that_is_held_up_says_by_whom() -> None:
    m = market()
    assert (m.open_sessions, m.behind_us, m.held_up_by()) == (0, 0, [])
    take(m, *(tick(symbol, 0) for symbol in UNIVERSE))
    list(m.close())
    take(m, *(tick(symbol, day) for day in range(1, 8) for symbol in "AB"))
    assert (m.open_sessions, m.behind_us, m.held_up_by()) == (7, 6 * DAY, [])
    take(m, *(tick(symbol, 9) for symbol in "AB"))
    assert (m.open_sessions, m.behind_us, m.held_up_by()) == (8, 8 * DAY, ["C", "D"])
    take(m, tick("C", 9))
    assert m.held_up_by() == [], "C shows that D is silent"
    assert days(list(m.close())) == [1]


def test_a_universe_that_has_never_said_anything_is_waited_for_too() -> None:
    m = market()
    take(m, tick("A", 0), tick("B", 0))
    assert m.held_up_by() == [], "the others may be on their way"
    take(m, tick("A", 8), tick("B", 8))
    assert m.held_up_by() == ["C", "D"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
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
            lane.append(tick(symbol, day, rng.uniform(5, 15), rng.choice((rng.randrange(100), rng.randrange(9 * DAY)))))
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


def known_at(taken: Sequence[Tick], event_time_us: int) -> int:
    """The rule, said naively: of each symbol, the first tick of its lane that shows what it did at an instant."""
    firsts = (
        next(
            t.available_at_us or 0
            for t in taken
            if LANES[t.symbol] == LANES[symbol]
            and (t.event_time_us or 0) >= event_time_us + (0 if t.symbol == symbol else SILENCE_US + 1)
        )
        for symbol in UNIVERSE
    )
    return max(firsts)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 60))
def test_a_cross_section_is_available_when_the_last_of_what_it_depends_on_is(seed: int, sessions: int) -> None:
    m = market()
    ticks = [each for lane in lanes_of(seed, sessions).values() for each in lane]
    taken = [each for each in ticks if m.accept(each, NOW, 0) is Taken.CLOSE]
    latest = 0
    for section in m.close():
        latest = max(latest, known_at(taken, section.event_time_us))
        assert section.available_at_us == latest


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32), st.integers(20, 60))
def test_no_cross_section_is_available_before_a_tick_that_its_closing_depended_on(
    seed: int, reading: int, sessions: int
) -> None:
    """In whatever order the lanes are read, a tick that makes sessions close was needed to close them."""
    lanes = lanes_of(seed, sessions)
    rng = random.Random(reading)
    m = market()
    closed = 0
    while any(lanes.values()):
        lane = rng.choice([lane for lane in lanes.values() if lane])
        for _ in range(rng.randrange(1, 40)):
            if lane:
                new = lane.pop(0)
                take(m, new)
                for section in m.close():
                    assert new.available_at_us is not None
                    assert section.available_at_us >= new.available_at_us
                    closed += 1
    assert closed > sessions - 10


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


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32))
def test_closes_before_the_needed_ones_do_not_matter(seed: int) -> None:
    lanes = lanes_of(seed, 330)
    ahead = {
        number: [each for each in lane if (each.event_time_us or 0) >= T0 + 310 * DAY] for number, lane in lanes.items()
    }
    whole = market()
    for number, lane in lanes.items():
        take(whole, *lane[: len(lane) - len(ahead[number])])
    whole.close_silently()
    assert whole.needed_from_us > T0 + 20 * DAY
    part = market()
    for number, lane in lanes.items():
        before = lane[: len(lane) - len(ahead[number])]
        take(part, *(each for each in before if (each.event_time_us or 0) >= whole.needed_from_us))
    part.close_silently()
    for number, lane in lanes.items():
        after = lane[len(lane) - len(ahead[number]) :]
        assert take(part, *after) == take(whole, *after)
    sections = emitted(list(whole.close()))
    assert sections == emitted(list(part.close()))
    assert len(sections) > 5
    assert part.needed_from_us == whole.needed_from_us


def test_everything_is_needed_until_the_window_is_full() -> None:
    m = market()
    for day in range(254):
        take(m, *(tick(symbol, day) for symbol in UNIVERSE))
        m.close_silently()
        assert m.needed_from_us == (T0 + (day - 252) * DAY if day >= 252 else NEVER_US)
