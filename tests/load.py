"""Load on inference_svc: callers that each call again as soon as they are answered, and what came of all calls."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from tests.waiting import until

Call = Callable[[], Awaitable[Any]]


@dataclass
class Load:
    """What came of the calls so far."""

    answers: Counter[str] = field(default_factory=Counter)
    """How many calls succeeded, by what they were answered: the text that `who` made of the answer."""
    failures: Counter[str] = field(default_factory=Counter)
    """How many failed, by status."""
    said: list[str] = field(default_factory=list)
    """What the failed ones said."""
    longest_s: float = 0.0
    _since: dict[int, float] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Calls that have ended."""
        return self.answers.total() + self.failures.total()

    def waiting(self, for_s: float) -> int:
        """How many calls have been under way for longer."""
        now = time.monotonic()
        return sum(now - since > for_s for since in self._since.values())

    async def more(self, count: int, limit_s: float = 30.0) -> None:
        """Wait until so many more calls have ended well."""
        enough = self.answers.total() + count
        await until(lambda: self.answers.total() >= enough, limit_s)

    async def answered_by(self, name: str, count: int = 10, limit_s: float = 30.0) -> None:
        """Wait until one has answered so many calls more."""
        enough = self.answers[name] + count
        await until(lambda: self.answers[name] >= enough, limit_s)

    async def _caller(self, number: int, call: Call, who: Callable[[Any], str], ended: asyncio.Event) -> None:
        while not ended.is_set():
            self._since[number] = started = time.monotonic()
            try:
                self.answers[who(await call())] += 1
            except grpc.aio.AioRpcError as error:
                self.failures[error.code().name] += 1
                self.said.append(error.details() or "")
            self.longest_s = max(self.longest_s, time.monotonic() - started)
        self._since.pop(number, None)


@asynccontextmanager
async def under_load(call: Call, callers: int, who: Callable[[Any], str] = lambda _: "") -> AsyncIterator[Load]:
    """Keep so many calls under way while the block runs; at its end all have ended."""
    load, ended = Load(), asyncio.Event()
    tasks = [asyncio.create_task(load._caller(number, call, who, ended)) for number in range(callers)]
    try:
        yield load
    finally:
        ended.set()
        await asyncio.gather(*tasks)
