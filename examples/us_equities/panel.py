"""The price panel: daily closes, and the instants at which they could be known."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).parents[1] / "data" / "us_equities_daily_close.csv.gz"

_EXCHANGE = ZoneInfo("America/New_York")
_CLOSE = time(16, 0)
_PUBLISHED_AFTER_US = 5 * 60 * 1_000_000
"""The official closing prints are out some minutes after the bell; five is on the safe side."""


@dataclass(frozen=True)
class Panel:
    """Closes in US dollars, shape [sessions, symbols], finite and positive."""

    days: tuple[date, ...]
    symbols: tuple[str, ...]
    closes: NDArray[np.float64]

    @cached_property
    def event_times_us(self) -> NDArray[np.int64]:
        """Instant of each session's close (UTC), microseconds; shape [sessions].

        16:00 in New York on every day: the few early closes of a year are taken as ordinary ones, which is late, and
        so never ahead.
        """
        closes = (datetime.combine(day, _CLOSE, _EXCHANGE) for day in self.days)
        return np.array([int(close.timestamp()) * 1_000_000 for close in closes], dtype=np.int64)

    @cached_property
    def available_at_us(self) -> NDArray[np.int64]:
        """When each session's closes could first be known (UTC), microseconds; shape [sessions]."""
        return self.event_times_us + _PUBLISHED_AFTER_US

    def rows(self, start: int, stop: int) -> Panel:
        """The sessions of a range of indices."""
        return Panel(self.days[start:stop], self.symbols, self.closes[start:stop])

    def first_at_or_after(self, day: date) -> int:
        """Index of the first session on that day or later."""
        return next(index for index, session in enumerate(self.days) if session >= day)


def load(path: Path = PATH) -> Panel:
    """Read the panel. Raises ValueError for a price that is missing, not finite or not positive."""
    with gzip.open(path, "rt", newline="") as file:
        header, *rows = csv.reader(file)
    closes = np.array([row[1:] for row in rows], dtype=np.float64)
    if not (np.isfinite(closes).all() and (closes > 0).all()):
        raise ValueError(f"{path.name}: every close must be a positive number")
    return Panel(tuple(date.fromisoformat(row[0]) for row in rows), tuple(header[1:]), closes)
