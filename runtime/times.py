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


def set_us(timestamp: Timestamp, us: int) -> None:
    """Set a protobuf timestamp in place."""
    seconds, rest = divmod(us, 1_000_000)
    timestamp.seconds = seconds
    timestamp.nanos = rest * 1000


def from_us(us: int) -> Timestamp:
    """Make a protobuf timestamp."""
    seconds, rest = divmod(us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)
