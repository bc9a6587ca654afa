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
    requests: AsyncIterable[Request], begin: Callable[[Request], Begun[Answer_co]], window: int
) -> AsyncGenerator[Answer_co, None]:
    """Begin requests as they come and yield their answers in order; at most `window` are under way or not yet taken.

    With the window full nothing is read, so a slow reader of answers slows down whoever sends. What reading raises is
    raised after the answers that are due.
    """
    begun: deque[Begun[Answer_co]] = deque()
    room = asyncio.Semaphore(window)
    news = asyncio.Event()

    async def read() -> None:
        try:
            await room.acquire()
            async for request in requests:
                begun.append(begin(request))
                news.set()
                await room.acquire()
        finally:
            news.set()

    reading = asyncio.create_task(read())
    try:
        while True:
            while begun:
                yield await begun[0].result()
                begun.popleft()
                room.release()
            if reading.done() and not begun:
                break
            news.clear()
            if not begun and not reading.done():
                await news.wait()
        reading.result()
    finally:
        await ended(reading)
        for each in begun:
            each.cancel()
