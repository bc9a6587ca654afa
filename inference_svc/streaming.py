"""Answers in the order of the requests, with several under way at once, and never more than a window of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Protocol, TypeVar

from runtime.process import ended

Request = TypeVar("Request")
Answer_co = TypeVar("Answer_co", covariant=True)


class Begun(Protocol[Answer_co]):
    """A request under way."""

    async def result(self) -> Answer_co:
        """Its answer."""

    def cancel(self) -> None:
        """Nobody waits for the answer."""


async def in_order(
    requests: AsyncIterable[Request],
    begin: Callable[[Request], Begun[Answer_co]],
    window: int,
    weight: Callable[[Request], int] = lambda _: 1,
) -> AsyncGenerator[Answer_co, None]:
    """Begin requests as they come and yield their answers in order.

    What is under way or not yet taken weighs at most `window`, or is one request. With the window full nothing is begun
    and nothing more is read, so a slow reader of answers slows down whoever sends. What reading raises is raised after
    the answers that are due.
    """
    begun: deque[tuple[Begun[Answer_co], int]] = deque()
    used = 0
    room, news = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        nonlocal used
        try:
            async for request in requests:
                weighs = weight(request)
                while used and used + weighs > window:
                    room.clear()
                    await room.wait()
                begun.append((begin(request), weighs))
                used += weighs
                news.set()
        finally:
            news.set()

    reading = asyncio.create_task(read())
    try:
        while True:
            while begun:
                answer, weighs = begun[0]
                yield await answer.result()
                begun.popleft()
                used -= weighs
                room.set()
            if reading.done():
                break
            news.clear()
            await news.wait()
        reading.result()
    finally:
        await ended(reading)
        for answer, _ in begun:
            answer.cancel()
