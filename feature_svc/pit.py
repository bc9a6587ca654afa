"""The point-in-time rules: what of the prints of a value was known as of an instant. Pure; online and offline use them.

A print may be used as of T when its `event_time` and its `available_at` are both at or before T. The newest event time
wins; of its prints the policy chooses. What is older than its time to live is STALE, never filled.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Container, Sequence
from enum import IntEnum
from typing import Literal, NamedTuple, TypeAlias

Policy: TypeAlias = Literal["latest_known", "first_print"]

KEPT_PRINTS = 8
"""Prints that a History holds."""

MAX_SYMBOL_CHARS = 64
MAX_NAME_CHARS = 128
MAX_SOURCE_CHARS = 64
MAX_PRINT_NUMBER = 65_535

_SINCE_FOREVER = -(2**63)


class Status(IntEnum):
    """What a value is, as of an instant. The numbers are those of the contract's FeatureStatus."""

    OK = 1
    STALE = 2
    MISSING = 3


class RawFeature(NamedTuple):
    """One print, as published. A time is None when it was not given, or is no instant of the years 1 to 9999."""

    symbol: str
    name: str
    value: float
    event_time_us: int | None
    available_at_us: int | None
    source: str = ""
    print_number: int = 0
    event_id: str = ""


class Print(NamedTuple):
    """One print, as remembered. Prints order by event time, then by when they could be known, then by arrival."""

    event_time_us: int
    available_at_us: int
    sequence: int
    """Place in the order of arrival of the symbol's prints; unique within the symbol."""
    print_number: int
    value: float


class Violation(NamedTuple):
    """A rule that a record breaks."""

    reason: str
    """Stable, UPPER_SNAKE_CASE."""
    field: str
    description: str


def check_print(
    raw: RawFeature, known_symbols: Container[str], known_names: Container[str], now_us: int, skew_us: int
) -> Violation | None:
    """The first rule that a raw feature breaks, or None. `skew_us` is how far ahead of `now_us` a time may be.

    Reasons: INVALID_FIELD, UNKNOWN_SYMBOL, UNKNOWN_FEATURE, NON_FINITE, and those of `check_times`.
    """
    if not 0 < len(raw.symbol) <= MAX_SYMBOL_CHARS:
        return Violation("INVALID_FIELD", "symbol", f"needs 1 to {MAX_SYMBOL_CHARS} characters; has {len(raw.symbol)}")
    if raw.symbol not in known_symbols:  # state is kept of each symbol, so there must be a bound to them
        return Violation("UNKNOWN_SYMBOL", "symbol", f"{raw.symbol!r} is in the universe of no feature set")
    if raw.name not in known_names:
        if not 0 < len(raw.name) <= MAX_NAME_CHARS:
            return Violation("INVALID_FIELD", "name", f"needs 1 to {MAX_NAME_CHARS} characters; has {len(raw.name)}")
        return Violation("UNKNOWN_FEATURE", "name", f"{raw.name!r} is in no feature set")
    if not math.isfinite(raw.value):
        return Violation("NON_FINITE", "value", f"is {raw.value}; only finite values are features")
    if len(raw.source) > MAX_SOURCE_CHARS:
        return Violation(
            "INVALID_FIELD", "source", f"has {len(raw.source)} characters; at most {MAX_SOURCE_CHARS} are allowed"
        )
    if raw.print_number > MAX_PRINT_NUMBER:
        return Violation("INVALID_FIELD", "print_number", f"is {raw.print_number}; at most {MAX_PRINT_NUMBER}")
    return check_times(raw.event_time_us, raw.available_at_us, now_us, skew_us)


def check_times(event_time_us: int | None, available_at_us: int | None, now_us: int, skew_us: int) -> Violation | None:
    """The first rule of time that a record breaks, or None.

    Reasons: MISSING_TIME, LOOK_AHEAD (known before it happened), FROM_THE_FUTURE (ahead of the clock).
    """
    if event_time_us is None:
        return Violation("MISSING_TIME", "event_time", "is required: an instant in UTC, of the years 1 to 9999")
    if available_at_us is None:
        return Violation("MISSING_TIME", "available_at", "is required: an instant in UTC, of the years 1 to 9999")
    if available_at_us < event_time_us:
        return Violation(
            "LOOK_AHEAD",
            "available_at",
            f"lies {event_time_us - available_at_us} us before event_time: what has not happened cannot be known",
        )
    if available_at_us > now_us + skew_us:  # event_time is not later
        return Violation(
            "FROM_THE_FUTURE",
            "event_time" if event_time_us > now_us + skew_us else "available_at",
            f"lies {available_at_us - now_us} us ahead of the clock; at most {skew_us} us are allowed",
        )
    return None


def select(prints: Sequence[Print], as_of_us: int, policy: Policy) -> Print | None:
    """The print that counts as of an instant, of the prints of one value in ascending order; None when there is none.

    latest_known: of the newest event time the newest `available_at` at or before `as_of_us`, then the latest arrival.
    first_print: of the newest event time the first that could be known.
    """
    for place in range(len(prints) - 1, -1, -1):
        found = prints[place]
        if found.event_time_us <= as_of_us and found.available_at_us <= as_of_us:
            if policy == "first_print":
                while place and prints[place - 1].event_time_us == found.event_time_us:
                    place -= 1
            return prints[place]
    return None


def status_of(found: Print | None, as_of_us: int, ttl_us: int) -> Status:
    """Status of what `select` found. The time to live runs from the event time, inclusive; 0 is for ever."""
    if found is None:
        return Status.MISSING
    return Status.STALE if ttl_us and as_of_us - found.event_time_us > ttl_us else Status.OK


class History:
    """The newest prints of one value of one symbol, bounded.

    As of `complete_from_us` and later, it answers as if it had every print; before that, that nothing is known. It
    never answers with a print that a forgotten one would have beaten.
    """

    __slots__ = ("complete_from_us", "prints")

    def __init__(self, prints: list[Print] | None = None, complete_from_us: int = _SINCE_FOREVER) -> None:
        self.prints = prints if prints is not None else []
        self.complete_from_us = complete_from_us

    def find(self, event_time_us: int, print_number: int) -> Print | None:
        """A remembered print by its identity."""
        for held in reversed(self.prints):
            if held.event_time_us == event_time_us:
                if held.print_number == print_number:
                    return held
            elif held.event_time_us < event_time_us:
                break
        return None

    def add(self, new: Print) -> None:
        """Remember a print, and forget one when there are too many."""
        prints = self.prints
        if prints and new < prints[-1]:
            insort(prints, new)
        else:
            prints.append(new)
        if len(prints) > KEPT_PRINTS:
            self._forget_one()

    def select(self, as_of_us: int, policy: Policy) -> Print | None:
        """As the function `select`; None too for an instant that the history does not reach back to."""
        if as_of_us < self.complete_from_us:
            return None
        return select(self.prints, as_of_us, policy)

    def _forget_one(self) -> None:
        """Forget the oldest print, which no instant needs from the first print of a newer event time on. When there is
        one event time only, its first print is kept, and the second is not needed from the third on."""
        oldest = self.prints[0]
        newer = [held.available_at_us for held in self.prints if held.event_time_us > oldest.event_time_us]
        if newer:
            del self.prints[0]
            not_needed_from_us = min(newer)
        else:
            del self.prints[1]
            not_needed_from_us = self.prints[1].available_at_us
        self.complete_from_us = max(self.complete_from_us, not_needed_from_us)
