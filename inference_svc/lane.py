"""The queue of one model: what waits, by priority, and which rows make the next call.

Pure: no event loop, no model. A request's rows may be cut over several calls, and a call may hold rows of many
requests; each row is in exactly one call, and rows of one request are scored in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference_svc.admission import Priority, Terms
from inference_svc.costs import Calls, Cost

Matrix: TypeAlias = NDArray[np.float64]


_NO_VALUES: NDArray[np.float64] = np.empty(0)


class Work:
    """Rows of one request, on their way through a lane.

    `rows` is [n, columns], `values` [n] once all are known; `shapes` is the receipt: (rows, rows of the call).
    `began` is when its first row went into a call, in seconds of `time.perf_counter()`.
    `finished` is called once, when all rows are scored or the work has failed (`error`). `request_id` is the request's.
    """

    __slots__ = (
        "began",
        "cancelled",
        "error",
        "finished",
        "left",
        "request_id",
        "rows",
        "shapes",
        "taken",
        "terms",
        "values",
    )

    def __init__(self, rows: Matrix, terms: Terms, finished: Callable[[Work], None], request_id: str = "") -> None:
        self.rows = rows
        self.terms = terms
        self.finished = finished
        self.request_id = request_id
        self.values = _NO_VALUES
        self.shapes: list[tuple[int, int]] = []
        self.began = 0.0
        self.taken = 0
        self.left = len(rows)
        self.error: Exception | None = None
        self.cancelled = False

    @property
    def over(self) -> bool:
        """Whether nothing of it is to be scored any more."""
        return self.cancelled or self.error is not None

    def late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.terms.deadline is not None and self.terms.deadline <= now

    def fail(self, error: Exception) -> None:
        """End it with an error, unless it has ended."""
        if not self.over:
            self.error = error
            self.finished(self)

    def scored(self, first: int, values: Matrix, batch_rows: int) -> None:
        """Take the values of rows `first`, `first` + 1, …"""
        count = len(values)
        if count == len(self.rows):
            self.values = values
        else:
            if self.values is _NO_VALUES:
                self.values = np.empty(len(self.rows))
            self.values[first : first + count] = values
        self.shapes.append((count, batch_rows))
        self.left -= count
        if not self.left and not self.over:
            self.finished(self)


@dataclass(slots=True)  # not frozen: one is made for each call, at half the price
class Piece:
    """Consecutive rows of one work in a call: `count` rows from the work's row `first`."""

    work: Work
    first: int
    count: int

    @property
    def request_id(self) -> str:
        """Identity of the request."""
        return self.work.request_id

    @property
    def rows(self) -> Matrix:
        """The rows, [count, columns]."""
        rows = self.work.rows
        return rows if self.count == len(rows) else rows[self.first : self.first + self.count]


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken out of a lane: the pieces of the next call, and the works whose deadline had passed."""

    pieces: list[Piece]
    expired: list[Work]


class Lane:
    """The queue, with the model's cost and the calls that it has had."""

    __slots__ = ("_queues", "_waiting", "calls", "cost", "rows")

    def __init__(self, cost: Cost | None = None) -> None:
        self.cost = cost or Cost()
        self.calls = Calls()
        self._queues: tuple[deque[Work], ...] = tuple(deque() for _ in Priority)
        self._waiting = [0] * len(Priority)
        self.rows = 0
        """Rows that wait."""

    def __bool__(self) -> bool:
        return self.rows > 0

    def seen(self, rows: int, seconds: float) -> None:
        """Note what a call took."""
        self.cost.seen(rows, seconds)
        self.calls.seen(rows, seconds)

    def rows_before(self, priority: Priority) -> int:
        """Rows that wait and go before a new work of that priority."""
        return sum(self._waiting[: priority + 1])

    def push(self, work: Work) -> None:
        """Let a work wait."""
        priority = work.terms.priority
        self._queues[priority].append(work)
        self._waiting[priority] += work.left
        self.rows += work.left

    def cancel(self, work: Work) -> None:
        """Nobody waits for a work any more: its rows that are not running free their place at once."""
        if not work.over and work.left:
            self._gone(work.terms.priority, len(work.rows) - work.taken)
            work.cancelled = True

    def take(self, most_rows: int, now: float) -> Taken:
        """Take the rows of the next call: up to so many, the higher priority first, then in order of arrival."""
        pieces: list[Piece] = []
        expired: list[Work] = []
        room = most_rows
        for priority, queue in enumerate(self._queues):
            while queue and room:
                work = queue[0]
                left = len(work.rows) - work.taken
                if work.over:  # cancelled: counted off already; failed in an earlier call: not yet
                    if not work.cancelled:
                        self._gone(priority, left)
                    queue.popleft()
                    continue
                if work.late(now):
                    self._gone(priority, left)
                    expired.append(work)
                    queue.popleft()
                    continue
                count = min(left, room)
                if not work.taken:
                    work.began = now
                pieces.append(Piece(work, work.taken, count))
                work.taken += count
                self._gone(priority, count)
                room -= count
                if count == left:
                    queue.popleft()
        return Taken(pieces, expired)

    def _gone(self, priority: int, rows: int) -> None:
        self._waiting[priority] -= rows
        self.rows -= rows
