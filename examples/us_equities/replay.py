"""Replay history as market data, no faster than the mesh follows, and watch the records arrive at each stage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opentelemetry.trace import SpanKind

from examples.us_equities.deployment import STRATEGY
from examples.us_equities.panel import Panel
from quantmesh.streams.v1 import market_data_pb2
from runtime import telemetry
from runtime.redis_client import AWAY, Client
from runtime.times import from_us
from streams import Catalog, OutRecord, Producer, keys

TICKS = "market_data.trades"
RAW = "features.raw"
VECTORS = "features.pit"
SIGNALS = f"signals.{STRATEGY}"
STAGES = (TICKS, RAW, VECTORS, SIGNALS)

_IN_FLIGHT_SESSIONS = 4
"""How many sessions may be on their way: enough to keep each service busy, few enough that nobody queues for long."""

_STALLED_AFTER_S = 60.0


class StalledError(Exception):
    """The mesh did not move for a minute."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How many records each stage must have in the end, by the features computed in bulk."""

    counts: dict[str, int]

    @classmethod
    def of(cls, features: NDArray[np.float64]) -> Expected:
        """From features [sessions, symbols, features] that are NaN where history is too short."""
        known = np.isfinite(features)
        return cls(
            {
                TICKS: known.shape[0] * known.shape[1],
                RAW: int(known.sum()),
                VECTORS: int(known.any(axis=2).sum()),
                SIGNALS: int(known.all(axis=2).sum()),
            }
        )


class Replay:
    """One run of a panel through the mesh."""

    def __init__(self, redis: Client, catalog: Catalog, panel: Panel, expected: Expected) -> None:
        self._redis = redis
        self._catalog = catalog
        self._panel = panel
        self._expected = expected
        self._producer = Producer(redis, catalog)
        self._published_sessions = 0

    async def run(self, progress: Callable[[dict[str, int]], None] = lambda counts: None) -> float:
        """Publish every session and wait until all is through; returns the seconds that it took.

        Raises StalledError when nothing moves for a minute. Redis being away is waited for, as any publisher would.
        """
        started = time.monotonic()
        for index in range(len(self._panel.days)):
            await self._follow(lambda counts: self._in_flight(counts) < _IN_FLIGHT_SESSIONS, progress)
            await self._publish(index)
            self._published_sessions += 1
        await self._follow(self._all_through, progress)
        return time.monotonic() - started

    async def counts(self) -> dict[str, int]:
        """Records in each stage's stream."""
        partitions = range(self._catalog.partitions)
        async with self._redis.pipeline(transaction=False) as pipe:
            for stage in STAGES:
                for partition in partitions:
                    pipe.xlen(keys.entries(stage, partition))
            lengths = await pipe.execute()
        size = len(partitions)
        return {stage: sum(lengths[n * size : (n + 1) * size]) for n, stage in enumerate(STAGES)}

    def _in_flight(self, counts: dict[str, int]) -> float:
        """Sessions that were published and whose vectors are not out."""
        return self._published_sessions - counts[VECTORS] / len(self._panel.symbols)

    def _all_through(self, counts: dict[str, int]) -> bool:
        return all(counts[stage] >= expected for stage, expected in self._expected.counts.items())

    async def _follow(
        self, arrived: Callable[[dict[str, int]], bool], progress: Callable[[dict[str, int]], None]
    ) -> None:
        last: dict[str, int] = {}
        moved = time.monotonic()
        while True:
            try:
                counts = await self.counts()
            except AWAY:
                counts = last
            progress(counts)
            if counts and arrived(counts):
                return
            if counts != last:
                last, moved = counts, time.monotonic()
            elif time.monotonic() - moved > _STALLED_AFTER_S:
                missing = {stage: f"{counts.get(stage, 0)} of {n}" for stage, n in self._expected.counts.items()}
                raise StalledError(f"nothing moved for {_STALLED_AFTER_S:g} s: {missing}")
            await asyncio.sleep(0.002)

    async def _publish(self, index: int) -> None:
        """Publish one session's closes, one tick and one trace for each symbol."""
        event_time_us = int(self._panel.event_times_us[index])
        records = []
        for symbol, close in zip(self._panel.symbols, self._panel.closes[index], strict=True):
            tick = market_data_pb2.TradeTick(
                symbol=symbol,
                event_time=from_us(event_time_us),
                available_at=from_us(int(self._panel.available_at_us[index])),
                price=close,
                source="us_equities_daily_close",
            )
            with telemetry.span(f"publish {TICKS}", kind=SpanKind.PRODUCER):
                traceparent = telemetry.current_traceparent()
            event_id = f"{symbol}:{event_time_us}"
            records.append(OutRecord(TICKS, symbol, tick.SerializeToString(), traceparent, event_id))
        while True:
            try:
                await self._producer.send_many(records)
                return
            except AWAY:  # with the same event ids nothing is published twice
                await asyncio.sleep(0.1)
