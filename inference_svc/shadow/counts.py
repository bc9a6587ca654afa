"""What the shadow process has counted since its last report. Touched on its event loop alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inference_svc.metrics import CallSeconds
from inference_svc.shadow.accounts import Reason
from runtime.hot_metrics import Durations


@dataclass(slots=True)
class StrategyCounts:
    """Of one strategy."""

    scored: int = 0
    dropped: dict[Reason, int] = field(default_factory=dict)
    written: int = 0
    lost: int = 0
    calls: Durations = field(default_factory=CallSeconds.empty)

    def drop(self, reason: Reason, rows: int) -> None:
        """Count rows that are not scored."""
        self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def called(self, seconds: float) -> None:
        """Count a call."""
        self.calls.observe(seconds)


class Counts:
    """By strategy."""

    def __init__(self) -> None:
        self._counts: dict[str, StrategyCounts] = {}

    def of(self, strategy: str) -> StrategyCounts:
        """The counts of a strategy."""
        return self._counts.setdefault(strategy, StrategyCounts())

    def take(self) -> dict[str, dict[str, Any]]:
        """All as JSON values; from here on they count anew."""
        taken, self._counts = self._counts, {}
        return {
            strategy: {
                "scored": each.scored,
                "dropped": each.dropped,
                "written": each.written,
                "lost": each.lost,
                "calls": each.calls.counts,
                "seconds": each.calls.sum_s,
            }
            for strategy, each in taken.items()
        }
