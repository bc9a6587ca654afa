"""Feature vectors as they come out of `features.pit`: read, and refused when they are not what they claim to be."""

from __future__ import annotations

import math
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from quantmesh.streams.v1 import feature_pb2
from runtime.errors import InvalidInputError
from runtime.times import instant_us
from streams.vector_hash import hash_of

MAX_SYMBOL_CHARS = 64

_OK, _MISSING = feature_pb2.FEATURE_STATUS_OK, feature_pb2.FEATURE_STATUS_MISSING
_UNUSABLE = {_MISSING: "missing", feature_pb2.FEATURE_STATUS_STALE: "stale"}


class Vector(NamedTuple):
    """A feature vector whose hash is that of its content, and of which nothing is later than `as_of_us`."""

    symbol: str
    feature_set: str
    event_time_us: int
    as_of_us: int
    max_available_at_us: int
    values: list[float]
    unusable: str
    """Why it cannot be scored: `missing`, `stale` or `unusable`, by the worst of its values; empty when it can."""
    vector_hash: bytes


def read_vector(payload: bytes) -> Vector:
    """Read a FeatureVector, and check all that it says of itself.

    Raises InvalidInputError: UNPARSABLE, INVALID_VECTOR, LOOK_AHEAD, NON_FINITE_FEATURE, VECTOR_HASH_MISMATCH.
    """
    try:
        message = feature_pb2.FeatureVector.FromString(payload)
    except DecodeError as error:
        raise InvalidInputError(f"is no FeatureVector: {error}", reason="UNPARSABLE") from error
    values, statuses = list(message.values), list(message.statuses)
    _check_shape(message, len(values))
    unusable = _unusable(statuses)
    if not unusable:
        _check_usable(message, values)
    vector = Vector(
        symbol=message.symbol,
        feature_set=message.feature_set,
        event_time_us=_instant("event_time", message.event_time),
        as_of_us=_instant("as_of", message.as_of),
        max_available_at_us=_instant("max_available_at", message.max_available_at),
        values=values,
        unusable=unusable,
        vector_hash=message.vector_hash,
    )
    _check_times(message, vector, statuses)
    _check_hash(message)
    return vector


def _check_shape(message: feature_pb2.FeatureVector, count: int) -> None:
    if not 1 <= len(message.symbol) <= MAX_SYMBOL_CHARS:
        raise _invalid("symbol", f"has {len(message.symbol)} characters; 1 to {MAX_SYMBOL_CHARS} are allowed")
    for name in ("statuses", "value_event_times_us", "value_available_at_us"):
        entries = len(getattr(message, name))
        if entries != count:
            raise _invalid(name, f"has {entries} entries for {count} values")
    if not message.HasField("as_of"):
        raise _invalid("as_of", "is required")


def _check_usable(message: feature_pb2.FeatureVector, values: list[float]) -> None:
    """Check what only a vector that will be scored must have."""
    if not values:
        raise _invalid("values", "is empty")
    if not message.HasField("event_time"):
        raise _invalid("event_time", "is required of a vector with values")
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise InvalidInputError.of_field(
                f"values[{index}]", f"is {value} with status OK", reason="NON_FINITE_FEATURE"
            )


def _check_times(
    message: feature_pb2.FeatureVector, vector: Vector, statuses: list[feature_pb2.FeatureStatus.ValueType]
) -> None:
    """Check that nothing is later than `as_of`, and that the proof is the latest time of any value."""
    as_of_us, claimed_us = vector.as_of_us, vector.max_available_at_us
    times_us = list(message.value_available_at_us)
    if _MISSING in statuses:  # such a value has no time
        times_us = [time_us for time_us, status in zip(times_us, statuses, strict=True) if status != _MISSING]
    latest_us = max(times_us, default=None)
    known_us = claimed_us if latest_us is None else max(latest_us, claimed_us)
    if known_us > as_of_us:
        raise InvalidInputError.of_field(
            "max_available_at", f"a value was available {known_us - as_of_us} µs after as_of", reason="LOOK_AHEAD"
        )
    if message.HasField("max_available_at") != (latest_us is not None) or claimed_us != (latest_us or 0):
        raise _invalid("max_available_at", "is not the latest value_available_at_us of the values that are known")
    if vector.event_time_us > as_of_us and message.HasField("event_time"):
        raise _invalid("event_time", "is after as_of")


def _instant(field: str, timestamp: Timestamp) -> int:
    found = instant_us(timestamp)
    if found is None:
        raise _invalid(field, "is no instant of the years 1 to 9999")
    return found


def _check_hash(message: feature_pb2.FeatureVector) -> None:
    try:
        found = hash_of(message)
    except ValueError as error:
        raise _invalid("vector_hash", str(error)) from error
    if message.vector_hash != found:
        raise InvalidInputError.of_field(
            "vector_hash",
            f"is {message.vector_hash.hex()[:64]!r}, but the vector has {found.hex()}",
            reason="VECTOR_HASH_MISMATCH",
        )


def _unusable(statuses: list[feature_pb2.FeatureStatus.ValueType]) -> str:
    worst = ""
    for status in statuses:
        if status == _OK:
            continue
        reason = _UNUSABLE.get(status, "unusable")
        if reason == "missing":
            return reason
        worst = worst or reason
    return worst


def _invalid(field: str, description: str) -> InvalidInputError:
    return InvalidInputError.of_field(field, description, reason="INVALID_VECTOR")
