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
"""

from __future__ import annotations

import hashlib
import math
import struct
from functools import cache

from feature_svc.vector import FeatureVector

_MAGIC = b"quantmesh.FeatureVector.1"
_CANONICAL_NAN: float = struct.unpack("<d", bytes.fromhex("000000000000f87f"))[0]


@cache
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<BqqBqI{count}d{count}B{count}q{count}q")


def canonical_form(vector: FeatureVector) -> bytes:
    """The bytes that are hashed."""
    symbol, feature_set = vector.symbol.encode(), vector.feature_set.encode()
    count = len(vector.values)
    numbers = _numbers(count).pack(
        vector.event_time_us is not None,
        vector.event_time_us or 0,
        vector.as_of_us,
        vector.max_available_at_us is not None,
        vector.max_available_at_us or 0,
        count,
        *[_CANONICAL_NAN if math.isnan(value) else value for value in vector.values],
        *vector.statuses,
        *vector.value_event_times_us,
        *vector.value_available_at_us,
    )
    lengths = [len(text).to_bytes(4, "little") for text in (symbol, feature_set)]
    return b"".join((_MAGIC, lengths[0], symbol, lengths[1], feature_set, numbers))


def vector_hash(vector: FeatureVector) -> bytes:
    """SHA-256 of the canonical form, 32 bytes."""
    return hashlib.sha256(canonical_form(vector)).digest()
