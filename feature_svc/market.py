"""From ticks to cross-sections: which session is complete, and what the features of its symbols are. Pure.

Features are made of official closes: ticks without a size, at an instant that the calendar names. Every other tick is
an intraday print, and changes nothing. A session closes when every symbol is complete through it (see `progress`);
so the cross-sections are a function of what each lane has given, however the lanes were interleaved. A lane in which
every symbol is silent holds the market up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import NamedTuple

import numpy as np

from feature_svc.features import WINDOW, Array, compute_last
from feature_svc.pit import Violation, check_times
from feature_svc.progress import NEVER_US, SILENCE_US, Progress


class Tick(NamedTuple):
    """One trade or official close. A time is None when it was not given, or is no instant."""

    symbol: str
    event_time_us: int | None
    available_at_us: int | None
    price: float
    size: float = 0.0


class Taken(Enum):
    """What became of a tick that nothing is wrong with."""

    CLOSE = auto()
    """The official close of its symbol and session."""
    REPEATED = auto()
    """A close that is known already."""
    INTRADAY = auto()
    """A trade print: no official close of any session."""
    UNKNOWN_SYMBOL = auto()
    """Of a symbol outside of the universe."""


class CrossSection(NamedTuple):
    """The features of one session."""

    event_time_us: int
    available_at_us: int
    """When all of its closes, those of the window before it, and the absence of those that are missing could be
    known."""
    values: Array
    """[symbol of the universe, feature]; NaN where the symbol has no close, or its history is too short."""
    traceparents: dict[str, str]
    """Of each symbol that has a close; empty where the tick had none."""


class _Session:
    __slots__ = ("available_at_us", "closes", "event_time_us", "traceparents")

    def __init__(self, event_time_us: int, symbols: int) -> None:
        self.event_time_us = event_time_us
        self.available_at_us = NEVER_US
        self.closes = np.full(symbols, np.nan)
        self.traceparents: dict[str, str] = {}


class Market:
    """The universe's sessions: those that are open, and the window of the last closed ones."""

    def __init__(self, universe: Sequence[str], is_close: Callable[[int], bool], lane_of: Callable[[str], int]) -> None:
        """`is_close(event_time_us)`: whether a session closes then. `lane_of(symbol)`: the partition of its ticks."""
        self.universe = tuple(universe)
        self._is_close = is_close
        self._place = {symbol: place for place, symbol in enumerate(self.universe)}
        self._progress = Progress([lane_of(symbol) for symbol in self.universe])
        self._open: dict[int, _Session] = {}
        self._window: deque[_Session] = deque(maxlen=WINDOW)

    def accept(self, tick: Tick, now_us: int, skew_us: int, traceparent: str = "") -> Taken | Violation:
        """Take a tick, or say what is wrong with it. Only what is answered by `Taken.CLOSE` changes anything.

        Reasons: BAD_PRICE, LATE_TICK, and those of `pit.check_times`.
        """
        symbol, event_time_us, available_at_us, price, size = tick
        place = self._place.get(symbol)
        if place is None:
            return Taken.UNKNOWN_SYMBOL
        if not (math.isfinite(price) and price > 0):
            return Violation("BAD_PRICE", "price", f"is {price}; a price is finite and positive")
        violation = check_times(event_time_us, available_at_us, now_us, skew_us)
        if violation is not None:
            return violation
        assert event_time_us is not None  # as was checked
        assert available_at_us is not None
        if size or not self._is_close(event_time_us):
            return Taken.INTRADAY
        if event_time_us <= self._progress.through_us(place):
            if self._close_at(event_time_us, place) == price:
                return Taken.REPEATED
            return Violation(
                "LATE_TICK",
                "event_time",
                f"is not after the symbol's last close, or lies more than {SILENCE_US // 86_400_000_000} days behind "
                "the newest close of its partition",
            )
        session = self._open.get(event_time_us)
        if session is None:
            session = self._open[event_time_us] = _Session(event_time_us, len(self.universe))
        session.closes[place] = price
        session.traceparents[symbol] = traceparent
        self._progress.advance(place, event_time_us, available_at_us)
        return Taken.CLOSE

    def close(self) -> Iterator[CrossSection]:
        """Close every session that is due, oldest first, and compute its features. Run it to the end."""
        for session in self._due():
            closes = np.stack([past.closes for past in self._window])
            yield CrossSection(
                session.event_time_us,
                max(past.available_at_us for past in self._window),
                compute_last(closes),
                session.traceparents,
            )

    def close_silently(self) -> None:
        """Close every session that is due without computing anything: what came of it was published before."""
        for _ in self._due():
            pass

    @property
    def needed_from_us(self) -> int:
        """Closes before this instant can never matter again."""
        return self._window[0].event_time_us if len(self._window) == WINDOW else NEVER_US

    @property
    def open_sessions(self) -> int:
        """Sessions that wait for symbols."""
        return len(self._open)

    @property
    def behind_us(self) -> int:
        """From the oldest session that waits for symbols to the newest session, in event time."""
        return self._progress.newest_us - min(self._open) if self._open else 0

    def held_up_by(self) -> list[str]:
        """Symbols that hold the market up until somebody steps in: no symbol of their partition says anything."""
        if self.behind_us <= SILENCE_US:
            return []
        return [self.universe[place] for place in self._progress.in_silent_lanes()]

    def _due(self) -> Iterator[_Session]:
        through_us = self._progress.all_through_us()
        for event_time_us in sorted(time_us for time_us in self._open if time_us <= through_us):
            session = self._open.pop(event_time_us)
            session.available_at_us = self._progress.known_at_us(event_time_us)
            self._window.append(session)
            yield session

    def _close_at(self, event_time_us: int, place: int) -> float:
        session = self._open.get(event_time_us)
        if session is None:
            session = next((past for past in self._window if past.event_time_us == event_time_us), None)
        return math.nan if session is None else float(session.closes[place])
