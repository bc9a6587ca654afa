"""Requests for a challenger itself: sent to the shadow process, which alone has it, and answered from there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_svc.admission import MIN_RETRY_S, Terms
from inference_svc.lane import Work
from inference_svc.registry import LoadedModel, not_ready
from inference_svc.rows import Matrix
from inference_svc.shadow import frames
from runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidInputError,
    QuantmeshError,
    ResourceExhaustedError,
)

ANSWER_S = 30.0
"""For so long an answer is waited for, at most: the shadow process has what the champions leave of the machine."""

MOST_BYTES = 16 * 1024 * 1024
"""Of requests that wait to be sent."""

_ERRORS = {error.__name__: error for error in (FailedPreconditionError, InvalidInputError, ResourceExhaustedError)}


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A challenger, as far as the replica has it: it knows how long a row is, and no more."""

    columns: int
    most_squares = 0.0
    """Says nothing."""

    def unfit(self, rows: NDArray[np.float64], /) -> NDArray[np.bool_] | None:
        """None: the shadow process looks at the values."""
        return None

    def predict(self, rows: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Never asked for."""
        raise NotImplementedError("a challenger is scored in the shadow process")


class Asks:
    """The requests that wait for an answer."""

    def __init__(self, send: Callable[[bytes, float], bool], is_up: Callable[[], bool]) -> None:
        self._send = send
        self._is_up = is_up
        self._number = 0
        self._waiting: dict[int, tuple[Work, LoadedModel, asyncio.TimerHandle]] = {}

    def submit(
        self, loaded: LoadedModel, rows: Matrix, terms: Terms, finished: Callable[[Work], None], request_id: str = ""
    ) -> Work:
        """Let rows [n, columns], n >= 1, be scored; `finished` is called with the work, later.

        Raises UnavailableError (CHALLENGER_NOT_READY), ResourceExhaustedError (QUEUE_FULL), DeadlineExceededError. The
        work may fail with these, and as a work of the batcher.
        """
        now = time.perf_counter()
        left_s = ANSWER_S if terms.deadline is None else min(terms.deadline - now, ANSWER_S)
        if left_s <= 0:
            raise DeadlineExceededError("the deadline passed before the call began")
        if not self._is_up():
            raise not_ready(loaded.manifest.strategy)
        self._number = (self._number + 1) % (1 << 32)
        number = self._number
        if not self._send(frames.ask_frame(frames.Ask(number, loaded.version, rows)), MOST_BYTES):
            raise full()
        work = Work(rows, terms, finished, request_id)
        work.began, work.taken = now, len(rows)
        timer = asyncio.get_running_loop().call_later(left_s, self._expire, number)
        self._waiting[number] = work, loaded, timer
        return work

    def answered(self, number: int, predictions: Matrix) -> None:
        """Take an answer. One that nobody waits for any more is let go."""
        found = self._taken(number)
        if found is not None:
            found[0].scored(0, predictions, 1)

    def refused(self, number: int, error: dict[str, Any]) -> None:
        """Take the error of an ask, as `said` made it."""
        found = self._taken(number)
        if found is not None:
            work, loaded = found
            kind = _ERRORS.get(error["kind"])
            work.fail(
                kind(
                    error["message"],
                    reason=error["reason"],
                    metadata=error["metadata"],
                    retry_after_s=error["retry_after_s"],
                )
                if kind is not None
                else not_ready(loaded.manifest.strategy)
            )

    def lose(self) -> None:
        """The shadow process is gone, and whatever it was asked."""
        for number in list(self._waiting):
            self.refused(number, {"kind": ""})

    def _taken(self, number: int) -> tuple[Work, LoadedModel] | None:
        found = self._waiting.pop(number, None)
        if found is None:
            return None
        work, loaded, timer = found
        timer.cancel()
        return work, loaded

    def _expire(self, number: int) -> None:
        found = self._taken(number)
        if found is not None:
            found[0].fail(DeadlineExceededError("the challenger did not answer in time"))


def said(error: QuantmeshError) -> dict[str, Any]:
    """An error as JSON values, for `refused`."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "reason": error.reason,
        "metadata": error.metadata,
        "retry_after_s": error.retry_after_s,
    }


def full() -> ResourceExhaustedError:
    """The error of a request that finds too many others before it."""
    return ResourceExhaustedError(
        "too many requests wait for the challenger: try again later", reason="QUEUE_FULL", retry_after_s=MIN_RETRY_S
    )
