"""Waiting for what must become true: tests poll a predicate, and never sleep and hope."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(predicate: Callable[[], bool | Awaitable[bool]], limit_s: float = 15.0) -> None:
    """Return when the predicate (a function, or a coroutine function) is true; TimeoutError when it never is."""
    async with asyncio.timeout(limit_s):
        while True:
            answer = predicate()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.01)
