"""Instants as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_svc.replay.instants import parse_us, show

US = 1_547_758_800_000_000


@pytest.mark.parametrize(
    "text",
    [
        "2019-01-17T21:00:00Z",
        "2019-01-17 21:00:00+00:00",
        "2019-01-17T16:00:00-05:00",
        "20190117T210000Z",
        " 1547758800000000 ",
        "+1547758800000000",
    ],
)
def test_one_instant_in_many_ways(text: str) -> None:
    assert parse_us(text) == US


def test_a_date_is_its_midnight_and_microseconds_are_kept() -> None:
    assert parse_us("2019-01-17") == US - 21 * 3_600_000_000
    assert parse_us("2019-01-17T21:00:00.000001Z") == US + 1
    assert parse_us("0") == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2019-01-17T21:00:00", "no time zone: write 2019-01-17T21:00:00Z"),
        ("1547758800", "seconds and milliseconds are not taken"),
        ("1547758800000", "seconds and milliseconds are not taken"),
        ("yesterday", "'yesterday' is no instant"),
        ("", "is no instant"),
        ("2019-02-30", "is no instant"),
        ("9" * 20, "years 1 to 9999"),
        ("9" * 400, "years 1 to 9999"),
    ],
)
def test_what_is_no_instant_says_how_to_write_one(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_us(text)


@given(st.integers(10**14, 253_402_300_799_999_999))
def test_what_is_shown_is_read_back(us: int) -> None:
    assert parse_us(show(us)) == us
    assert parse_us(str(us)) == us
