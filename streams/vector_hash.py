"""The hash of a feature vector: SHA-256 over one canonical form, so that a receipt names its inputs to the last bit.

Canonical form, little-endian, without padding:

    "quantmesh.FeatureVector.1"        25 bytes, ASCII
    symbol, then feature_set           each: length in bytes (u32), UTF-8
    event_time                         1 and microseconds (u8, i64); 0 and 0 when unset
    as_of                              microseconds (i64)
    max_available_at                   as event_time
    count                              number of features (u32)
    values                             count x f64; every NaN as 0x7ff8000000000000
    statuses                           count x u8, the numbers of FeatureStatus
    value_event_times                  count x i64, microseconds
    value_available_at                 count x i64, microseconds

Whoever makes a vector and whoever uses one hash it by this module, so that a reader can verify what it was given.
"""

from __future__ import annotations

import hashlib
import math
import struct
from functools import cache

from quantmesh.streams.v1 import feature_pb2
from runtime.times import to_us

_MAGIC = b"quantmesh.FeatureVector.1"
_CANONICAL_NAN: float = struct.unpack("<d", bytes.fromhex("000000000000f87f"))[0]


def hash_of(message: feature_pb2.FeatureVector) -> bytes:
    """SHA-256 of the canonical form, 32 bytes. The message's own `vector_hash` is not looked at.

    Raises ValueError when the message has no canonical form: its lists differ in length, or a status is no byte.
    """
    return hashlib.sha256(canonical_form(message)).digest()


def canonical_form(message: feature_pb2.FeatureVector) -> bytes:
    """The bytes that are hashed. Raises ValueError as `hash_of` does."""
    symbol, feature_set = message.symbol.encode(), message.feature_set.encode()
    values = message.values
    count = len(values)
    if not count == len(message.statuses) == len(message.value_event_times_us) == len(message.value_available_at_us):
        raise ValueError("the values, statuses and times of a vector must be of one length")
    try:
        numbers = _numbers(count).pack(
            message.HasField("event_time"),
            to_us(message.event_time),
            to_us(message.as_of),
            message.HasField("max_available_at"),
            to_us(message.max_available_at),
            count,
            *[_CANONICAL_NAN if math.isnan(value) else value for value in values],
            *message.statuses,
            *message.value_event_times_us,
            *message.value_available_at_us,
        )
    except struct.error as error:
        raise ValueError("a status or an instant of the vector is out of bounds") from error
    lengths = [len(text).to_bytes(4, "little") for text in (symbol, feature_set)]
    return b"".join((_MAGIC, lengths[0], symbol, lengths[1], feature_set, numbers))


@cache
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<BqqBqI{count}d{count}B{count}q{count}q")
