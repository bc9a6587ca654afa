"""Instants as a person writes them: ISO 8601 with a zone, a date, or microseconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS = re.compile(r"[+-]?\d+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")

_PLAUSIBLE_US = 10**14
"""An instant of 1973. A number below it is most likely of seconds or milliseconds, and would silently mean 1970."""


def parse_us(text: str) -> int:
    """Microseconds since 1970 of an instant; a date is its midnight, UTC.

    Raises ValueError, which says how to write it.
    """
    text = text.strip()
    if _MICROSECONDS.fullmatch(text):
        us = int(text)
        if us and abs(us) < _PLAUSIBLE_US:
            raise ValueError(f"{text} microseconds is an instant of 1970: seconds and milliseconds are not taken")
        show(us)
        return us
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no instant: write 2019-01-17T21:00:00Z, 2019-01-17 (its midnight, UTC), or microseconds "
            "since 1970"
        ) from None
    if _DATE.fullmatch(text):
        instant = instant.replace(tzinfo=UTC)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write {text}Z if it is UTC")
    return (instant - _EPOCH) // _MICROSECOND


def show(us: int) -> str:
    """An instant as ISO 8601, to the microsecond, UTC. Raises ValueError when it is outside of the years 1 to 9999."""
    try:
        return (_EPOCH + us * _MICROSECOND).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except OverflowError:
        raise ValueError(f"{us} is no instant of the years 1 to 9999") from None
