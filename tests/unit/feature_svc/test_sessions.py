"""Which instants are closes: local time, through the changes of the clock, and nothing beside."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from feature_svc.sessions import DailySessions

SESSIONS = DailySessions(zone=ZoneInfo("America/New_York"), close=time(16))


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1e6)


@pytest.mark.parametrize(
    ("instant", "is_close"),
    [
        ("2022-01-03T21:00:00+00:00", True),  # winter
        ("2022-07-05T20:00:00+00:00", True),  # summer
        ("2022-07-05T21:00:00+00:00", False),
        ("2022-01-03T20:00:00+00:00", False),
        ("2022-01-03T21:00:00.000001+00:00", False),
        ("2022-01-03T20:59:59.999999+00:00", False),
        ("2022-01-03T21:00:01+00:00", False),
        ("2022-11-25T18:00:00+00:00", False),  # an early close, at 13:00
        ("2022-11-25T21:00:00+00:00", True),  # as it has to be published
        ("2022-01-07T21:00:00+00:00", True),  # Friday
        ("2022-01-08T21:00:00+00:00", False),  # Saturday
        ("2022-01-09T21:00:00+00:00", False),  # Sunday
        ("1962-07-05T20:00:00+00:00", True),
    ],
)
def test_closes(instant: str, is_close: bool) -> None:
    assert SESSIONS.is_close(us(instant)) is is_close


@pytest.mark.parametrize("seconds", [-62_135_596_800, 253_402_300_799])
def test_the_ends_of_time_are_no_closes(seconds: int) -> None:
    assert SESSIONS.is_close(seconds * 1_000_000) is False


@pytest.mark.parametrize("change", [{"zone": "America/Atlantis"}, {"close": "25:00"}, {"typo": 1}])
def test_a_wrong_calendar_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DailySessions.model_validate({"zone": "America/New_York", "close": "16:00"} | change)
