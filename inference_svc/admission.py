"""Whether a call is let in: refused at once rather than answered too late.

Pure arithmetic on estimates; the batcher brings them. The estimate of a wait is what waits before the call, at what it
costs, and how late the event loop runs at the moment.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from runtime.errors import DeadlineExceededError, ResourceExhaustedError

MIN_RETRY_S = 0.005

_SPREAD = 1.4
"""The objective is of the slowest of a hundred answers, and an estimate of the usual one: waits vary by so much."""


class Priority(enum.IntEnum):
    """Which calls go first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller asks of an answer.

    `deadline` is in seconds of `time.perf_counter()`, None without one. A `patient` call waits as long as it takes, and
    is not refused for what waits: its caller is held back by flow control instead.
    """

    priority: Priority = Priority.NORMAL
    deadline: float | None = None
    patient: bool = False


USUAL = Terms()


class Admission:
    """The rule. `target_s` is the latency objective, `max_rows` what may wait at most, over all models."""

    __slots__ = ("_max_rows", "_target_s")

    def __init__(self, target_s: float, max_rows: int) -> None:
        self._target_s = target_s
        self._max_rows = max_rows

    def check(self, terms: Terms, now: float, *, wait_s: float, own_s: float, waiting_rows: int, rows: int) -> None:
        """Let a call in, or raise.

        `wait_s` is until its first row can run, `own_s` what its rows cost. ResourceExhaustedError: QUEUE_FULL, or
        OVERLOADED when the predicted finish is past the deadline, or that of the slowest of a hundred such calls past
        the objective; both say when to try again.
        DeadlineExceededError when the deadline is past already. A call that nothing waits before is never too slow
        for the objective: at an idle service it would be no faster.
        """
        if waiting_rows and waiting_rows + rows > self._max_rows and not terms.patient:
            raise ResourceExhaustedError(
                f"{waiting_rows} rows are waiting to be scored, and at most {self._max_rows} may: try again later",
                reason="QUEUE_FULL",
                retry_after_s=max(wait_s, MIN_RETRY_S),
            )
        left_s = None if terms.deadline is None else terms.deadline - now
        if left_s is not None and left_s <= 0:
            raise DeadlineExceededError("the deadline passed before the call began")
        if terms.patient:
            return
        finish_s = wait_s + own_s
        if left_s is not None and wait_s > 0 and finish_s > left_s:
            raise _overloaded(f"the deadline of {left_s * 1000:.1f} ms", finish_s, wait_s)
        latest_s = _SPREAD * wait_s + own_s
        if wait_s > 0 and latest_s > max(self._target_s, own_s):
            raise _overloaded(f"the objective of {self._target_s * 1000:g} ms", latest_s, wait_s)


def _overloaded(limit: str, finish_s: float, wait_s: float) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"overloaded: the answer is expected within {finish_s * 1000:.1f} ms, past {limit}: try again later",
        reason="OVERLOADED",
        retry_after_s=max(wait_s, MIN_RETRY_S),
    )
