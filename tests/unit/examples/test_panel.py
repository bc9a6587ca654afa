"""The panel: real data, and instants that respect the exchange's clock."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from examples.us_equities.panel import load

PANEL = load()


def test_the_panel_is_what_its_readme_says() -> None:
    assert (len(PANEL.days), len(PANEL.symbols)) == (8313, 20)
    assert (PANEL.days[0], PANEL.days[-1]) == (date(1990, 1, 2), date(2022, 12, 28))
    assert list(PANEL.days) == sorted(set(PANEL.days))


@pytest.mark.parametrize(("day", "hour_utc"), [(date(2019, 1, 2), 21), (date(2019, 7, 2), 20)])
def test_a_close_is_at_four_in_new_york_whatever_the_season(day: date, hour_utc: int) -> None:
    index = PANEL.first_at_or_after(day)
    close = datetime.fromtimestamp(PANEL.event_times_us[index] / 1e6, UTC)
    assert close == datetime(day.year, day.month, day.day, hour_utc, tzinfo=UTC)


def test_nothing_is_known_before_it_happened() -> None:
    assert (PANEL.available_at_us > PANEL.event_times_us).all()
    assert (np.diff(PANEL.event_times_us) > 0).all()


@pytest.mark.parametrize("bad", ["nan", "0", "-1", "inf"])
def test_a_bad_price_is_refused(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "panel.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(f"Date,A\n2020-01-02,{bad}\n")
    with pytest.raises(ValueError, match=r"panel\.csv\.gz"):
        load(path)
