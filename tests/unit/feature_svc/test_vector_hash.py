"""The hash of a vector changes with every part of it, and with nothing else."""

from __future__ import annotations

import hashlib
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_svc import convert
from feature_svc.pit import Status
from feature_svc.vector import FeatureVector
from feature_svc.vector_hash import canonical_form, vector_hash

VECTOR = FeatureVector(
    "AAPL", "equities_daily", 10, 20, 15, (1.5, math.nan), (Status.OK, Status.MISSING), (10, 0), (15, 0)
)


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "AAPM"},
        {"feature_set": "other"},
        {"symbol": "AAPLe", "feature_set": "quities_daily"},
        {"event_time_us": 11},
        {"event_time_us": None},
        {"as_of_us": 21},
        {"max_available_at_us": 16},
        {"max_available_at_us": None},
        {"values": (math.nextafter(1.5, 2), math.nan)},
        {"values": (-1.5, math.nan)},
        {"values": (1.5, 0.0)},
        {"statuses": (Status.STALE, Status.MISSING)},
        {"value_event_times_us": (11, 0)},
        {"value_available_at_us": (16, 0)},
        {"values": (), "statuses": (), "value_event_times_us": (), "value_available_at_us": ()},
    ],
)
def test_every_part_counts(change: dict[str, object]) -> None:
    assert vector_hash(VECTOR._replace(**change)) != vector_hash(VECTOR)  # type: ignore[arg-type]


def test_an_unset_time_is_not_the_epoch() -> None:
    assert vector_hash(VECTOR._replace(event_time_us=0)) != vector_hash(VECTOR._replace(event_time_us=None))


def test_the_sign_of_zero_counts() -> None:
    assert vector_hash(VECTOR._replace(values=(0.0, 1.0))) != vector_hash(VECTOR._replace(values=(-0.0, 1.0)))


@given(st.integers(0, 2**51 - 1), st.booleans())
def test_every_nan_is_one(payload: int, negative: bool) -> None:
    bits = (0xFFF8 if negative else 0x7FF8) << 48 | payload
    nan = struct.unpack("<d", struct.pack("<Q", bits))[0]
    assert vector_hash(VECTOR._replace(values=(1.5, nan))) == vector_hash(VECTOR)


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
    assert canonical_form(VECTOR) == expected
    assert vector_hash(VECTOR) == hashlib.sha256(expected).digest()


def test_the_message_carries_the_hash_and_comes_back_as_it_was() -> None:
    message = convert.vector_message(VECTOR)
    again = convert.vector_of(type(message).FromString(message.SerializeToString()))
    assert vector_hash(again) == message.vector_hash == vector_hash(VECTOR)
    assert again._replace(values=()) == VECTOR._replace(values=())
