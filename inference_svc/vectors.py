"""Feature vectors as they come out of `features.pit`: read, and refused when they are not what they claim to be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from quantmesh.streams.v1 import feature_pb2
from runtime.errors import InvalidInputError
from runtime.times import to_us

MAX_SYMBOL_CHARS = 64
HASH_BYTES = 32

_OK = feature_pb2.FEATURE_STATUS_OK
_UNUSABLE = {feature_pb2.FEATURE_STATUS_MISSING: "missing", feature_pb2.FEATURE_STATUS_STALE: "stale"}


@dataclass(frozen=True, slots=True)
class Vector:
    """A feature vector that proves that it looked at nothing later than `as_of_us`."""

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
    """Read a FeatureVector.

    Raises InvalidInputError: UNPARSABLE, INVALID_VECTOR, LOOK_AHEAD, NON_FINITE_FEATURE.
    """
    try:
        message = feature_pb2.FeatureVector.FromString(payload)
    except DecodeError as error:
        raise InvalidInputError(f"is no FeatureVector: {error}", reason="UNPARSABLE") from error
    values = list(message.values)
    _check_shape(message, len(values))
    unusable = _unusable(message)
    if not unusable:
        if not values or not message.HasField("max_available_at"):
            raise _invalid("max_available_at", "is required of a vector with values")
        for index, value in enumerate(values):
            if not math.isfinite(value):
                raise InvalidInputError.of_field(
                    f"values[{index}]", f"is {value} with status OK", reason="NON_FINITE_FEATURE"
                )
    return Vector(
        symbol=message.symbol,
        feature_set=message.feature_set,
        event_time_us=to_us(message.event_time),
        as_of_us=to_us(message.as_of),
        max_available_at_us=_latest(message),
        values=values,
        unusable=unusable,
        vector_hash=message.vector_hash,
    )


def _check_shape(message: feature_pb2.FeatureVector, count: int) -> None:
    if not 1 <= len(message.symbol) <= MAX_SYMBOL_CHARS:
        raise _invalid("symbol", f"has {len(message.symbol)} characters; 1 to {MAX_SYMBOL_CHARS} are allowed")
    if len(message.statuses) != count:
        raise _invalid("statuses", f"has {len(message.statuses)} entries for {count} values")
    if not message.HasField("as_of"):
        raise _invalid("as_of", "is required")
    if len(message.vector_hash) != HASH_BYTES:
        raise _invalid("vector_hash", f"has {len(message.vector_hash)} bytes; must have {HASH_BYTES}")


def _latest(message: feature_pb2.FeatureVector) -> int:
    """The latest `available_at` of any value, checked against `as_of`: the claim, and the values' own times."""
    as_of_us, claimed_us = to_us(message.as_of), to_us(message.max_available_at)
    latest_us = max(message.value_available_at_us, default=claimed_us)
    if max(latest_us, claimed_us) > as_of_us:
        raise InvalidInputError.of_field(
            "max_available_at",
            f"a value was available {max(latest_us, claimed_us) - as_of_us} µs after as_of",
            reason="LOOK_AHEAD",
        )
    return claimed_us


def _unusable(message: feature_pb2.FeatureVector) -> str:
    worst = ""
    for status in message.statuses:
        if status == _OK:
            continue
        reason = _UNUSABLE.get(status, "unusable")
        if reason == "missing":
            return reason
        worst = worst or reason
    return worst


def _invalid(field: str, description: str) -> InvalidInputError:
    return InvalidInputError.of_field(field, description, reason="INVALID_VECTOR")
