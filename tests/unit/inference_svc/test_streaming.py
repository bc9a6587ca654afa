"""Answers come in the order of the requests, a window at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from inference_svc.streaming import in_order


@dataclass
class Begun:
    number: int
    over: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    async def result(self) -> int:
        await self.over.wait()
        return self.number

    def cancel(self) -> None:
        self.cancelled = True


class Requests:
    """Begins numbers, and knows how far it has read."""

    def __init__(self, count: int, *, fails: bool = False) -> None:
        self.count = count
        self.fails = fails
        self.begun: list[Begun] = []

    async def read(self) -> AsyncIterator[int]:
        for number in range(self.count):
            yield number
        if self.fails:
            raise ConnectionError("cut")

    def begin(self, number: int) -> Begun:
        self.begun.append(Begun(number))
        return self.begun[-1]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_answers_come_in_order_even_when_the_later_is_ready_first() -> None:
    requests = Requests(5)
    answers: list[int] = []

    async def consume() -> None:
        async for answer in in_order(requests.read(), requests.begin, 8):
            answers.append(answer)  # noqa: PERF401 - looked at meanwhile

    consuming = asyncio.create_task(consume())
    await settle()
    for begun in reversed(requests.begun):
        assert answers == []
        begun.over.set()
        await settle() if begun.number else None
    await consuming
    assert answers == [0, 1, 2, 3, 4]


async def test_no_more_than_the_window_is_read_ahead_of_who_takes_the_answers() -> None:
    requests = Requests(100)
    async with aclosing(in_order(requests.read(), requests.begin, 4)) as answers:
        waiting = asyncio.ensure_future(anext(answers))
        await settle()
        assert len(requests.begun) == 4
        requests.begun[0].over.set()
        assert await waiting == 0
        await settle()
        assert len(requests.begun) <= 5


async def test_a_request_counts_for_what_it_weighs_and_one_that_weighs_too_much_goes_alone() -> None:
    requests = Requests(6)
    answers = in_order(requests.read(), requests.begin, 10, weight=lambda number: 30 if number == 3 else 4)
    waiting = asyncio.ensure_future(anext(answers))
    for begun, taken in ((2, 0), (3, 1), (3, 2), (4, 3), (6, 4)):
        await settle()
        assert (len(requests.begun), taken) == (begun, taken)
        requests.begun[taken].over.set()
        await waiting
        waiting = asyncio.ensure_future(anext(answers))
    waiting.cancel()


async def test_what_is_under_way_is_cancelled_when_nobody_listens_any_more() -> None:
    requests = Requests(3)
    answers = in_order(requests.read(), requests.begin, 8)
    waiting = asyncio.ensure_future(anext(answers))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await answers.aclose()
    assert [begun.cancelled for begun in requests.begun] == [True, True, True]


async def test_answers_that_are_due_come_before_the_error_of_reading() -> None:
    requests = Requests(2, fails=True)
    answers: list[int] = []
    stream = in_order(requests.read(), lambda number: _over(requests.begin(number)), 8)
    answers.append(await anext(stream))
    answers.append(await anext(stream))
    with pytest.raises(ConnectionError):
        await anext(stream)
    assert answers == [0, 1]


def _over(begun: Begun) -> Begun:
    begun.over.set()
    return begun


async def test_a_stream_without_requests_ends() -> None:
    requests = Requests(0)
    assert [answer async for answer in in_order(requests.read(), requests.begin, 8)] == []
