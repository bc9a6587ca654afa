"""Writes pairs to `shadow.{strategy}`: in bulk, bounded in memory, and dropped where Redis does not take them."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog
from redis.exceptions import RedisError

from inference_svc.shadow.counts import Counts
from runtime.errors import QuantmeshError
from runtime.redis_client import Client
from streams import Catalog, OutRecord, Producer

log = structlog.get_logger()

MOST_PAIRS = 20_000
"""Pairs that wait to be written."""

_GATHER_S = 0.5
"""A write costs this process more than its pairs do."""

_AT_ONCE, _PAUSE_S = 200, 0.02
"""And Redis does not stand back as this process does: what it has to do at once is to be little."""


def stream_of(strategy: str) -> str:
    """The stream of a strategy's pairs."""
    return f"shadow.{strategy}"


class Recorder:
    """What waits to be written, oldest first."""

    def __init__(self, redis: Client, catalog: Catalog, counts: Counts) -> None:
        self._producer = Producer(redis, catalog)
        self._counts = counts
        self._waiting: deque[tuple[str, OutRecord]] = deque()
        self._failing = False

    def record(self, strategy: str, request_id: str, pair: bytes) -> None:
        """Let a pair be written."""
        if len(self._waiting) >= MOST_PAIRS:
            self._counts.of(strategy).lost += 1
        else:
            self._waiting.append((strategy, OutRecord(stream_of(strategy), request_id, pair)))

    async def run(self) -> None:
        """Write what waits, for ever. What Redis does not take within the producer's patience is lost, and counted."""
        while True:
            await asyncio.sleep(_GATHER_S if len(self._waiting) < _AT_ONCE else _PAUSE_S)
            try:
                await self._write_some()
            except (RedisError, OSError, QuantmeshError) as error:
                if not self._failing:
                    log.warning("pairs of champion and challenger are lost: they cannot be written", error=str(error))
                self._failing = True
            else:
                self._failing = False

    async def flush(self) -> None:
        """Write all that waits now. Raises what `Producer.send_many` raises."""
        while self._waiting:
            await self._write_some()

    async def _write_some(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
        try:
            await self._producer.send_many([record for _, record in some])
        except BaseException:
            for strategy, _ in some:
                self._counts.of(strategy).lost += 1
            raise
        for strategy, _ in some:
            self._counts.of(strategy).written += 1
