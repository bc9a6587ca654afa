"""Requests for a challenger: each is answered once, refused, or told that its time is over."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from inference_svc.admission import USUAL, Terms
from inference_svc.lane import Work
from inference_svc.shadow import frames
from inference_svc.shadow.asks import Asks, Elsewhere, full, said
from inference_svc.shadow.frames import Reader
from runtime.errors import (
    DeadlineExceededError,
    InvalidInputError,
    QuantmeshError,
    ResourceExhaustedError,
    UnavailableError,
)
from tests.unit.inference_svc.loaded import loaded

CHALLENGER = loaded("d" * 64, model=Elsewhere(2))
ROWS = np.array([[1.0, 2.0], [3.0, 4.0]])


class Made:
    def __init__(self) -> None:
        self.up, self.room = True, True
        self.sent: list[bytes] = []
        self.asks = Asks(self._send, lambda: self.up)

    def _send(self, frame: bytes, _limit_bytes: float) -> bool:
        if self.room:
            self.sent.append(frame)
        return self.room

    def number(self) -> int:
        """Of the newest ask."""
        ((_, body),) = Reader().feed(self.sent[-1])
        return frames.read_ask(body).number

    def ask(self, terms: Terms = USUAL) -> tuple[Work, asyncio.Future[Work]]:
        over: asyncio.Future[Work] = asyncio.get_running_loop().create_future()
        return self.asks.submit(CHALLENGER, ROWS, terms, over.set_result, "r"), over


async def test_an_answer_is_the_works_and_rows_are_alone_in_their_calls() -> None:
    made = Made()
    work, over = made.ask()
    ((_, body),) = Reader().feed(made.sent[0])
    sent = frames.read_ask(body)
    assert sent.version == CHALLENGER.version
    assert np.array_equal(sent.values, ROWS)
    made.asks.answered(sent.number, np.array([7.0, 8.0]))
    assert (await over) is work
    assert (work.values.tolist(), work.shapes, work.error) == ([7.0, 8.0], [(2, 1)], None)
    made.asks.answered(sent.number, np.array([9.0, 9.0]))  # nobody waits for it any more


@pytest.mark.parametrize(
    "error", [InvalidInputError("too large", reason="OUT_OF_RANGE"), full(), UnavailableError("gone", reason="GONE")]
)
async def test_a_refusal_is_the_works_error(error: QuantmeshError) -> None:
    made = Made()
    work, over = made.ask()
    made.asks.refused(made.number(), said(error))
    await over
    assert isinstance(work.error, type(error))
    reason = "CHALLENGER_NOT_READY" if isinstance(error, UnavailableError) else error.reason
    assert work.error.reason == reason


async def test_when_the_process_is_gone_who_waits_is_told_and_nobody_is_let_in() -> None:
    made = Made()
    work, over = made.ask()
    made.up = False
    made.asks.lose()
    await over
    assert isinstance(work.error, UnavailableError)
    with pytest.raises(UnavailableError):
        made.ask()
    made.up, made.room = True, False
    with pytest.raises(ResourceExhaustedError):
        made.ask()


async def test_a_deadline_ends_the_wait() -> None:
    made = Made()
    work, over = made.ask(Terms(deadline=time.perf_counter() + 0.01))
    await over
    assert isinstance(work.error, DeadlineExceededError)
    with pytest.raises(DeadlineExceededError):
        made.ask(Terms(deadline=time.perf_counter() - 1))


async def test_who_gives_up_gets_no_answer() -> None:
    made = Made()
    work, over = made.ask()
    CHALLENGER.lane.cancel(work)
    made.asks.answered(made.number(), np.array([7.0, 8.0]))
    assert not over.done()
    assert CHALLENGER.lane.rows == 0
