"""The watch over the lag: gauges for Prometheus, and a word when a group falls behind and when it has caught up."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import structlog
from redis.exceptions import RedisError

from runtime.redis_client import Client
from streams import metrics
from streams.catalog import Catalog
from streams.leases import pause
from streams.operations.inspect import Lag, current_lag

log = structlog.get_logger()

LagHook: TypeAlias = Callable[[Lag], Awaitable[None] | None]
"""Called with the lag that began or ended an episode. May be a coroutine function."""

_LOOKS_BEFORE_ALERT = 2
"""One look over the limit is a hiccup."""


class LagMonitor:
    """Looks at the lag of groups every second while `run` runs.

    When a group's `ms` is over the catalog's `stream_max_lag_ms` for two looks in a row, `on_alert` is called, once;
    `on_resolved` when it is at the limit or under it again. A group that an operator has dropped raises no alert.
    """

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        groups: Sequence[tuple[str, str]],
        *,
        interval_s: float = 1.0,
        on_alert: LagHook | None = None,
        on_resolved: LagHook | None = None,
    ) -> None:
        """`groups` are pairs of stream and group: they are the labels of the gauges. Default hooks: log it.

        Raises NotFoundError for a stream that the catalog does not have.
        """
        self._redis = redis
        self._catalog = catalog
        self._groups = [(catalog.stream(stream).name, group) for stream, group in groups]
        self._interval_s = interval_s
        self._on_alert = on_alert or self._warn
        self._on_resolved = on_resolved or _tell_resolved
        self._over: dict[tuple[str, str], int] = dict.fromkeys(self._groups, 0)
        self._told: dict[tuple[str, str], str] = {}
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Watch until `stop` is called. Redis being away does not end it: the gauges are NaN meanwhile."""
        while not self._ended.is_set():
            for stream, group in self._groups:
                try:
                    found = await current_lag(self._redis, self._catalog, stream, group)
                except (RedisError, OSError) as error:
                    self._unknown(stream, group, error)
                else:
                    await self._look(found)
            await pause(self._ended, self._interval_s)

    def stop(self) -> None:
        """Make `run` finish the look under way and return."""
        self._ended.set()

    async def _look(self, found: Lag) -> None:
        pair = (found.stream, found.group)
        metrics.LAG_RECORDS.labels(*pair).set(found.records)
        metrics.LAG_MS.labels(*pair).set(found.ms)
        metrics.PENDING.labels(*pair).set(found.pending)
        self._told.pop(pair, None)
        looks = self._over[pair]
        if found.ms > self._catalog.stream_max_lag_ms and not found.dropped:
            self._over[pair] = looks + 1
            if looks + 1 == _LOOKS_BEFORE_ALERT:
                metrics.LAG_ALERTS.labels(*pair).inc()
                await self._call(self._on_alert, found)
        else:
            self._over[pair] = 0
            if looks >= _LOOKS_BEFORE_ALERT:
                await self._call(self._on_resolved, found)

    def _unknown(self, stream: str, group: str, error: Exception) -> None:
        for gauge in (metrics.LAG_RECORDS, metrics.LAG_MS, metrics.PENDING):
            gauge.labels(stream, group).set(math.nan)
        cause = repr(error)
        if self._told.get((stream, group)) != cause:
            self._told[stream, group] = cause
            log.warning("the lag is not known: Redis cannot be asked", stream=stream, group=group, error=str(error))

    async def _call(self, hook: LagHook, found: Lag) -> None:
        try:
            answer = hook(found)
            if inspect.isawaitable(answer):
                await answer
        except Exception as error:  # whoever listens must not end the watch
            log.error("a hook of the lag monitor failed", stream=found.stream, group=found.group, exc_info=error)

    def _warn(self, found: Lag) -> None:
        log.warning(
            "a group is behind",
            stream=found.stream,
            group=found.group,
            lag_ms=found.ms,
            lag_records=found.records,
            limit_ms=self._catalog.stream_max_lag_ms,
        )


def _tell_resolved(found: Lag) -> None:
    log.info("a group has caught up", stream=found.stream, group=found.group, lag_ms=found.ms)
