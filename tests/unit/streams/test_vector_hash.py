"""The hash of a vector changes with every part of it, and with nothing else."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantmesh.streams.v1 import feature_pb2
from runtime.times import from_us, set_us
from streams.vector_hash import canonical_form, hash_of

OK, STALE, MISSING = feature_pb2.FEATURE_STATUS_OK, feature_pb2.FEATURE_STATUS_STALE, feature_pb2.FEATURE_STATUS_MISSING


def vector(*values: float) -> feature_pb2.FeatureVector:
    return feature_pb2.FeatureVector(
        symbol="AAPL",
        feature_set="equities_daily",
        event_time=from_us(10),
        as_of=from_us(20),
        max_available_at=from_us(15),
        values=values or (1.5, math.nan),
        statuses=[OK, MISSING],
        value_event_times_us=[10, 0],
        value_available_at_us=[15, 0],
    )


def changed(change: Callable[[feature_pb2.FeatureVector], object]) -> bytes:
    message = vector()
    change(message)
    return hash_of(message)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: setattr(v, "symbol", "AAPM"),
        lambda v: setattr(v, "feature_set", "other"),
        lambda v: v.MergeFrom(feature_pb2.FeatureVector(symbol="AAPLe", feature_set="quities_daily")),
        lambda v: set_us(v.event_time, 11),
        lambda v: v.ClearField("event_time"),
        lambda v: set_us(v.as_of, 21),
        lambda v: set_us(v.max_available_at, 16),
        lambda v: v.ClearField("max_available_at"),
        lambda v: v.values.__setitem__(0, math.nextafter(1.5, 2)),
        lambda v: v.values.__setitem__(0, -1.5),
        lambda v: v.values.__setitem__(1, 0.0),
        lambda v: v.statuses.__setitem__(0, STALE),
        lambda v: v.value_event_times_us.__setitem__(0, 11),
        lambda v: v.value_available_at_us.__setitem__(0, 16),
        lambda v: [v.ClearField(each) for each in LISTS],
    ],
)
def test_every_part_counts(change: Callable[[feature_pb2.FeatureVector], object]) -> None:
    assert changed(change) != hash_of(vector())


LISTS = ("values", "statuses", "value_event_times_us", "value_available_at_us")


def test_the_hash_that_it_carries_does_not_count() -> None:
    assert changed(lambda v: setattr(v, "vector_hash", bytes(32))) == hash_of(vector())


def test_an_unset_time_is_not_the_epoch() -> None:
    assert changed(lambda v: set_us(v.event_time, 0)) != changed(lambda v: v.ClearField("event_time"))


def test_the_sign_of_zero_counts() -> None:
    assert hash_of(vector(0.0, 1.0)) != hash_of(vector(-0.0, 1.0))


@given(st.integers(0, 2**51 - 1), st.booleans())
def test_every_nan_is_one(payload: int, negative: bool) -> None:
    bits = (0xFFF8 if negative else 0x7FF8) << 48 | payload
    nan = struct.unpack("<d", struct.pack("<Q", bits))[0]
    assert hash_of(vector(1.5, nan)) == hash_of(vector())


def test_the_layout_is_the_documented_one() -> None:
    expected = (
        b"quantmesh.FeatureVector.1"
        + struct.pack("<I", 4)
        + b"AAPL"
        + struct.pack("<I", 14)
        + b"equities_daily"
        + struct.pack("<Bq", 1, 10)
        + struct.pack("<q", 20)
        + struct.pack("<Bq", 1, 15)
        + struct.pack("<I", 2)
        + struct.pack("<d", 1.5)
        + bytes.fromhex("000000000000f87f")
        + bytes((1, 3))
        + struct.pack("<4q", 10, 0, 15, 0)
    )
    assert canonical_form(vector()) == expected
    assert hash_of(vector()) == hashlib.sha256(expected).digest()


def test_it_survives_the_wire() -> None:
    message = vector()
    assert hash_of(feature_pb2.FeatureVector.FromString(message.SerializeToString())) == hash_of(message)


@pytest.mark.parametrize(
    "change",
    [*(lambda v, each=each: v.ClearField(each) for each in LISTS), lambda v: v.statuses.__setitem__(0, 256)],
)
def test_a_message_without_a_canonical_form_is_refused(change: Callable[[feature_pb2.FeatureVector], object]) -> None:
    with pytest.raises(ValueError, match="vector"):
        changed(change)
