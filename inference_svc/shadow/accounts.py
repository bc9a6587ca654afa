"""What became of the rows that a challenger was to score: each is scored, dropped for a reason, or in flight."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from inference_svc import metrics

Reason: TypeAlias = Literal["full", "down", "no_model", "failed"]
"""full: no room on the way; down: the shadow process was not there, or ended before it told; no_model: it had not
loaded the challenger; failed: the challenger has no finite prediction for the row."""

REASONS: tuple[Reason, ...] = get_args(Reason)


class Account:
    """The rows of one strategy, since the replica started."""

    def __init__(self, strategy: str) -> None:
        self._strategy = strategy
        self.offered = 0
        self.scored = 0
        self.in_flight = 0
        self.dropped: dict[Reason, int] = dict.fromkeys(REASONS, 0)

    def offer(self, rows: int) -> None:
        """Take rows in: they are in flight."""
        self.offered += rows
        self.in_flight += rows

    def score(self, rows: int) -> None:
        """Rows in flight were scored."""
        rows = self._land(rows)
        self.scored += rows
        metrics.SHADOW_SCORED.labels(self._strategy).inc(rows)

    def drop(self, reason: Reason, rows: int) -> None:
        """Rows in flight will not be scored."""
        rows = self._land(rows)
        self.dropped[reason] += rows
        metrics.SHADOW_DROPPED.labels(self._strategy, reason).inc(rows)

    def lose(self) -> None:
        """Whoever had what is in flight is gone."""
        self.drop("down", self.in_flight)

    def _land(self, rows: int) -> int:
        """So many rows, or what is in flight: what was lost is not counted again."""
        rows = min(rows, self.in_flight)
        self.in_flight -= rows
        return rows
