"""What a call of a model costs, learnt from the calls it has had."""

from __future__ import annotations

_WEIGHT = 0.05
"""Of the latest call in the running estimate: about the last 20 calls count."""

_AT_MOST = 4.0
"""A call that took longer than so many times its estimate counts as this: one pause of the machine is no trend."""


class Cost:
    """Seconds of a call, linear in its rows: `fixed_s + rows * row_s`, scaled by how calls went of late."""

    __slots__ = ("_fixed_s", "_row_s", "_scale")

    def __init__(self, fixed_s: float = 0.0, row_s: float = 0.0) -> None:
        self._fixed_s = fixed_s
        self._row_s = row_s
        self._scale = 1.0

    @classmethod
    def of_calls(cls, few: tuple[int, float], many: tuple[int, float]) -> Cost:
        """From two calls, (rows, seconds) each, one of few rows and one of many; they may be equal."""
        (few_rows, few_s), (many_rows, many_s) = few, many
        row_s = (many_s - few_s) / (many_rows - few_rows) if many_rows > few_rows else few_s / few_rows
        row_s = max(row_s, 0.0)  # noise may make the bigger call the faster one
        return cls(max(few_s - few_rows * row_s, 0.0), row_s)

    def of(self, rows: int) -> float:
        """Seconds that a call of so many rows is expected to take."""
        return (self._fixed_s + rows * self._row_s) * self._scale

    def of_calls_of(self, most_rows: int, rows: int) -> float:
        """Seconds that so many rows are expected to take in calls of at most `most_rows`."""
        if rows <= most_rows:
            return self.of(rows) if rows else 0.0
        full, rest = divmod(rows, most_rows)
        return full * self.of(most_rows) + (self.of(rest) if rest else 0.0)

    def seen(self, rows: int, seconds: float) -> None:
        """Note what a call took."""
        expected = self._fixed_s + rows * self._row_s
        if expected <= 0.0:  # never measured: the first call says
            self._row_s = seconds / rows
            return
        ratio = min(seconds / expected, _AT_MOST * self._scale)
        self._scale += _WEIGHT * (ratio - self._scale)


class Calls:
    """The calls that a model has had: how many of each number of rows, and how long they took together."""

    __slots__ = ("by_rows",)

    def __init__(self) -> None:
        self.by_rows: dict[int, tuple[int, float]] = {}

    def seen(self, rows: int, seconds: float) -> None:
        """Count a call."""
        count, total_s = self.by_rows.get(rows, (0, 0.0))
        self.by_rows[rows] = count + 1, total_s + seconds

    @property
    def count(self) -> int:
        """Calls."""
        return sum(count for count, _ in self.by_rows.values())

    @property
    def rows(self) -> int:
        """Rows, over all calls."""
        return sum(rows * count for rows, (count, _) in self.by_rows.items())
