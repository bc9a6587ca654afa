"""The inbox: remembers which events' effects outside of Redis have happened, so that they are not repeated.

Guarantee: the block of an event runs until it has succeeded once, in one place at a time, and not again for
`keep_hours`. It is at least once, not exactly once: when the process dies after the effect and before the inbox has
heard of it, the block runs again, after the lease. And "one at a time" is by the event loop's clock: a process that is
stopped in the middle of an effect, for longer than the lease, and then goes on, may do it beside another. An effect
that can take the event id along as its own idempotency key closes both gaps.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from redis.exceptions import RedisError

from runtime.errors import UnavailableError
from runtime.lua import Scripts
from runtime.process import ended
from runtime.redis_client import AWAY, Client
from streams.leases import pause

_SCRIPTS = Scripts(Path(__file__).with_name("lua"))

LEASE_MS = 10_000
"""Whoever began an event and was silent for so long is dead, and another may do it."""

_POLL_S = 0.05
_PATIENCE_S = 0.5


class Inbox:
    """The events that one consumer has done. Safe to use from several tasks, and from several processes at once."""

    def __init__(self, redis: Client, name: str, keep_hours: float, *, lease_ms: int = LEASE_MS) -> None:
        """`name` says whose effects these are: usually stream and group. `keep_hours` is how long an event is
        remembered: longer than it could come again, with all retries, replays and outages."""
        self._redis = redis
        self._name = name
        self._keep_ms = round(keep_hours * 3_600_000)
        self._lease_ms = lease_ms

    @asynccontextmanager
    async def once(self, event_id: str) -> AsyncIterator[bool]:
        """`async with inbox.once(event_id) as first`: true when the effect is to be done, in the block.

        It is done when the block ends without an exception; after one that raises, the next caller is first. While
        somebody else is at the event, this waits. A block whose lease cannot be renewed in time (Redis away) is
        cancelled, and UnavailableError is raised (reason INBOX_LEASE_LOST): the effect may or may not have happened.
        """
        key, token = f"inbox:{self._name}:{event_id}", uuid.uuid4().hex
        begun = await self._begin(key, token)
        if begun is None:
            yield False
            return
        try:
            async with asyncio.timeout_at(begun + self._lease_ms / 1000) as limit:
                left = asyncio.Event()
                renewing = asyncio.create_task(self._renew(key, token, limit, left))
                try:
                    yield True
                    if not limit.expired():
                        limit.reschedule(None)  # the effect has happened
                finally:
                    left.set()
                    await asyncio.wait({renewing}, timeout=_PATIENCE_S)  # rather than cut its connection
                    await ended(renewing)
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                raise UnavailableError(
                    f"the lease on event {event_id} of inbox {self._name} could not be kept", reason="INBOX_LEASE_LOST"
                ) from error
            with suppress(*AWAY):  # the lease ends by itself
                await _SCRIPTS.run(self._redis, "inbox_keep", (key,), (token, 0))
            raise
        # Whoever has the lease by now, the effect has happened.
        await self._redis.set(key, b"done", px=self._keep_ms)

    async def _begin(self, key: str, token: str) -> float | None:
        """Take the lease of an event; returns when, by the loop's clock, or None when the event is done."""
        clock = asyncio.get_running_loop().time
        while True:
            asked_at = clock()
            answer, *left_ms = await _SCRIPTS.run(self._redis, "inbox_begin", (key,), (token, self._lease_ms))
            if answer == b"FIRST":
                return asked_at
            if answer == b"DONE":
                return None
            await asyncio.sleep(min(_POLL_S, left_ms[0] / 1000))

    async def _renew(self, key: str, token: str, limit: asyncio.Timeout, left: asyncio.Event) -> None:
        """Move the limit of the block together with its lease, never beyond it, until the block is left."""
        clock = asyncio.get_running_loop().time
        while not await pause(left, self._lease_ms / 4000):
            asked_at = clock()
            try:
                kept = await _SCRIPTS.run(self._redis, "inbox_keep", (key,), (token, self._lease_ms))
            except (RedisError, OSError):
                continue  # the limit stands, and there is time for another try
            if limit.expired() or left.is_set():
                return
            limit.reschedule(asked_at + self._lease_ms / 1000 if kept else asked_at)
