"""From ticks to cross-sections: which session is complete, and what the features of its symbols are. Pure.

A session is an event time that symbols of the universe ticked at. It closes when every symbol has ticked at or after
it, or is taken for silent: the newest tick of the symbol's lane (its partition) lies more than SILENCE_US ahead.
Whether a tick is late depends on its own lane only, and lanes are in order; so the cross-sections are a function of
what each lane has given, however the lanes were interleaved, batched or read again. A lane in which every symbol is
silent holds the market up: nothing tells it from a lane that is yet to be read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from feature_svc.features import WINDOW, Array, compute_last
from feature_svc.pit import Violation, check_times

SILENCE_US = 7 * 86_400_000_000
"""How far a lane must be ahead of a symbol for the symbol to count as silent, in event time."""

_NEVER_US = -(2**63)


class Tick(NamedTuple):
    """One trade or official close. A time is None when it was not given, or is no instant."""

    symbol: str
    event_time_us: int | None
    available_at_us: int | None
    price: float


class CrossSection(NamedTuple):
    """The features of one session."""

    event_time_us: int
    available_at_us: int
    """When all of its closes, and those of the window before it, could be known."""
    values: Array
    """[symbol of the universe, feature]; NaN where the symbol did not tick, or its history is too short."""
    traceparents: dict[str, str]
    """Of each symbol that ticked; empty where the tick had none."""


class _Session:
    __slots__ = ("available_at_us", "closes", "event_time_us", "traceparents")

    def __init__(self, event_time_us: int, symbols: int) -> None:
        self.event_time_us = event_time_us
        self.available_at_us = _NEVER_US
        self.closes = np.full(symbols, np.nan)
        self.traceparents: dict[str, str] = {}


class Market:
    """The universe's sessions: those that are open, and the window of the last closed ones."""

    def __init__(self, universe: Sequence[str], lane_of: Callable[[str], int]) -> None:
        """`lane_of(symbol)` is the partition that the symbol's ticks come in."""
        self.universe = tuple(universe)
        self._place = {symbol: place for place, symbol in enumerate(self.universe)}
        self._lanes = [lane_of(symbol) for symbol in self.universe]
        self._newest_of_symbol = [_NEVER_US] * len(self.universe)
        self._newest_of_lane = dict.fromkeys(self._lanes, _NEVER_US)
        self._open: dict[int, _Session] = {}
        self._window: deque[_Session] = deque(maxlen=WINDOW)

    def accept(self, tick: Tick, now_us: int, skew_us: int, traceparent: str = "") -> Violation | None:
        """Take a tick, or say what is wrong with it.

        A tick that says again what is known is left alone. Reasons: UNKNOWN_SYMBOL, BAD_PRICE, LATE_TICK, and those
        of `pit.check_times`.
        """
        symbol, event_time_us, available_at_us, price = tick
        place = self._place.get(symbol)
        if place is None:
            return Violation("UNKNOWN_SYMBOL", "symbol", f"{symbol[:64]!r} is not in the universe")
        if not (math.isfinite(price) and price > 0):
            return Violation("BAD_PRICE", "price", f"is {price}; a price is finite and positive")
        violation = check_times(event_time_us, available_at_us, now_us, skew_us)
        if violation is not None or event_time_us is None or available_at_us is None:
            return violation
        if event_time_us <= self._through_us(place):
            if self._close_at(event_time_us, place) == price:
                return None
            return Violation(
                "LATE_TICK",
                "event_time",
                f"is not after the symbol's last tick, or lies more than {SILENCE_US // 86_400_000_000} days behind "
                "the newest tick of its partition",
            )
        session = self._open.get(event_time_us)
        if session is None:
            session = self._open[event_time_us] = _Session(event_time_us, len(self.universe))
        session.closes[place] = price
        session.available_at_us = max(session.available_at_us, available_at_us)
        session.traceparents[symbol] = traceparent
        self._newest_of_symbol[place] = event_time_us
        lane = self._lanes[place]
        self._newest_of_lane[lane] = max(self._newest_of_lane[lane], event_time_us)
        return None

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

    def remembers_from(self, event_time_us: int) -> bool:
        """Whether the whole window lies after an event time, so that nothing before it can matter any more."""
        return len(self._window) == WINDOW and self._window[0].event_time_us > event_time_us

    def _due(self) -> Iterator[_Session]:
        through_us = min(self._through_us(place) for place in range(len(self.universe)))
        for event_time_us in sorted(time_us for time_us in self._open if time_us <= through_us):
            session = self._open.pop(event_time_us)
            self._window.append(session)
            yield session

    def _through_us(self, place: int) -> int:
        """Up to when a symbol's ticks are complete."""
        return max(self._newest_of_symbol[place], self._newest_of_lane[self._lanes[place]] - SILENCE_US - 1)

    def _close_at(self, event_time_us: int, place: int) -> float:
        session = self._open.get(event_time_us)
        if session is None:
            session = next((past for past in self._window if past.event_time_us == event_time_us), None)
        return math.nan if session is None else float(session.closes[place])
