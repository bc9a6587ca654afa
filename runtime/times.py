"""Instants as microseconds since 1970-01-01T00:00:00Z, the one form in which the domain holds time.

Protobuf timestamps carry nanoseconds; what is finer than a microsecond is cut off at the edge, once.
"""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp


def now_us() -> int:
    """The wall clock, in microseconds."""
    return time.time_ns() // 1000


def to_us(timestamp: Timestamp) -> int:
    """Microseconds of a protobuf timestamp."""
    return timestamp.seconds * 1_000_000 + timestamp.nanos // 1000


_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799


def instant_us(timestamp: Timestamp) -> int | None:
    """Microseconds of a timestamp of unknown origin; None when it is no instant of the years 1 to 9999."""
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not (_FIRST_S <= seconds <= _LAST_S and 0 <= nanos < 1_000_000_000):
        return None
    return seconds * 1_000_000 + nanos // 1000


def set_us(timestamp: Timestamp, us: int) -> None:
    """Set a protobuf timestamp in place."""
    seconds, rest = divmod(us, 1_000_000)
    timestamp.seconds = seconds
    timestamp.nanos = rest * 1000


def from_us(us: int) -> Timestamp:
    """Make a protobuf timestamp."""
    seconds, rest = divmod(us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)
