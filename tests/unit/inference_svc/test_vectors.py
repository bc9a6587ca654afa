"""Which vectors can be believed, and which can be scored."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest

from inference_svc.vectors import read_vector
from quantmesh.streams.v1 import feature_pb2
from runtime.errors import InvalidInputError
from runtime.times import from_us
from streams.vector_hash import hash_of

OK, STALE, MISSING = (
    feature_pb2.FEATURE_STATUS_OK,
    feature_pb2.FEATURE_STATUS_STALE,
    feature_pb2.FEATURE_STATUS_MISSING,
)
AS_OF_US = 1_700_000_000_000_000
NO_TIMES: dict[str, object] = {"value_event_times_us": [], "value_available_at_us": []}


def message(**changes: object) -> feature_pb2.FeatureVector:
    """A sound vector, with changes; its hash is right if one can be made."""
    fields: dict[str, object] = {
        "symbol": "AAPL",
        "feature_set": "set",
        "event_time": from_us(AS_OF_US - 5),
        "as_of": from_us(AS_OF_US),
        "max_available_at": from_us(AS_OF_US),
        "values": [1.0, 2.0],
        "statuses": [OK, OK],
        "value_event_times_us": [AS_OF_US - 9, AS_OF_US - 5],
        "value_available_at_us": [AS_OF_US - 1, AS_OF_US],
    }
    made = feature_pb2.FeatureVector(**(fields | changes))  # type: ignore[arg-type]
    if "vector_hash" not in changes:
        with suppress(ValueError):
            made.vector_hash = hash_of(made)
    return made


def test_a_vector_is_read_and_equal_times_are_no_look_ahead() -> None:
    vector = read_vector(message().SerializeToString())
    assert (vector.symbol, vector.feature_set, vector.values, vector.unusable) == ("AAPL", "set", [1.0, 2.0], "")
    assert (vector.event_time_us, vector.as_of_us, vector.max_available_at_us) == (AS_OF_US - 5, AS_OF_US, AS_OF_US)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"symbol": ""}, "INVALID_VECTOR", "symbol"),
        ({"symbol": "A" * 65}, "INVALID_VECTOR", "symbol"),
        ({"as_of": None}, "INVALID_VECTOR", "as_of"),
        ({"event_time": None}, "INVALID_VECTOR", "event_time"),
        ({"event_time": from_us(AS_OF_US + 1)}, "INVALID_VECTOR", "event_time"),
        ({"statuses": [OK]}, "INVALID_VECTOR", "statuses"),
        ({"value_event_times_us": [1]}, "INVALID_VECTOR", "value_event_times_us"),
        ({"value_available_at_us": []}, "INVALID_VECTOR", "value_available_at_us"),
        ({"statuses": [OK, 256]}, "INVALID_VECTOR", "vector_hash"),
        ({"vector_hash": b""}, "VECTOR_HASH_MISMATCH", "vector_hash"),
        ({"vector_hash": bytes(32)}, "VECTOR_HASH_MISMATCH", "vector_hash"),
        ({"max_available_at": None}, "INVALID_VECTOR", "max_available_at"),
        ({"max_available_at": from_us(AS_OF_US - 1)}, "INVALID_VECTOR", "max_available_at"),
        ({"value_available_at_us": [AS_OF_US - 1] * 2}, "INVALID_VECTOR", "max_available_at"),
        ({"values": [], "statuses": [], **NO_TIMES}, "INVALID_VECTOR", "values"),
        ({"statuses": [MISSING] * 2}, "INVALID_VECTOR", "max_available_at"),
        ({"max_available_at": from_us(AS_OF_US + 1)}, "LOOK_AHEAD", "max_available_at"),
        ({"value_available_at_us": [0, AS_OF_US + 1]}, "LOOK_AHEAD", "max_available_at"),
        ({"values": [1.0, math.inf]}, "NON_FINITE_FEATURE", "values[1]"),
    ],
)
def test_a_vector_that_is_not_what_it_claims_is_refused(changes: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        read_vector(message(**changes).SerializeToString())
    assert (raised.value.reason, raised.value.violations[0].field) == (reason, field)


def test_bytes_that_are_no_vector_are_refused() -> None:
    with pytest.raises(InvalidInputError) as raised:
        read_vector(b"\xff\xff")
    assert raised.value.reason == "UNPARSABLE"


@pytest.mark.parametrize(
    ("statuses", "unusable"),
    [
        ([OK, STALE], "stale"),
        ([STALE, MISSING], "missing"),
        ([MISSING, OK], "missing"),
        ([OK, feature_pb2.FEATURE_STATUS_UNSPECIFIED], "unusable"),
        ([99, OK], "unusable"),
    ],
)
def test_a_vector_with_a_value_that_is_not_ok_is_unusable(statuses: list[int], unusable: str) -> None:
    of = message(statuses=statuses, values=[math.nan, 1.0], value_available_at_us=[AS_OF_US] * 2)
    assert read_vector(of.SerializeToString()).unusable == unusable


def test_a_value_that_is_missing_has_no_time() -> None:
    early = -5_000_000  # before 1970, when the zero of a value that is missing would be the latest of all
    old = message(
        statuses=[MISSING, STALE],
        as_of=from_us(early),
        event_time=from_us(early),
        max_available_at=from_us(early),
        value_available_at_us=[0, early],
    )
    assert read_vector(old.SerializeToString()).max_available_at_us == early


def test_a_vector_of_nothing_known_needs_no_proof() -> None:
    nothing = message(
        values=[math.nan] * 2,
        statuses=[MISSING] * 2,
        event_time=None,
        max_available_at=None,
        value_available_at_us=[0, 0],
    )
    assert read_vector(nothing.SerializeToString()).unusable == "missing"
