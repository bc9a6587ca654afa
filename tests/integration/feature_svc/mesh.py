"""What the tests of feature_svc share: publishing to it, and reading what it wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import grpc.aio
import numpy as np
from redis.asyncio import Redis

from feature_svc import convert
from feature_svc.app import FeatureService, build
from feature_svc.feature_sets import load_feature_sets
from feature_svc.features import FEATURE_NAMES, Array
from feature_svc.pit import RawFeature
from feature_svc.settings import FeatureSettings
from quantmesh.feature.v1 import feature_service_pb2_grpc
from quantmesh.streams.v1 import dead_letter_pb2, feature_pb2, market_data_pb2
from runtime.grpc_client import channel
from runtime.times import from_us
from streams import OutRecord, Producer, Record, keys, load_catalog

CATALOG = load_catalog(partitions=4)
SETS = load_feature_sets()
UNIVERSE = SETS.get("equities_daily").universe
DAY_US = 86_400_000_000
T0_US = 1_262_304_000_000_000  # 2010-01-01
SKEW_US = 5_000_000


def _closes_us(sessions: int) -> list[int]:
    """16:00 in New York on weekdays from 2010-01-04 on."""
    first = datetime(2010, 1, 4, 16, tzinfo=ZoneInfo("America/New_York"))
    days = (first + timedelta(days=7 * week + day) for week in range(sessions // 5 + 1) for day in range(5))
    return [round(day.timestamp()) * 1_000_000 for day in days]


SESSIONS_US = _closes_us(500)
"""Instants of sessions, in order."""


class Pipeline(Protocol):
    async def run(self) -> None: ...

    def stop(self) -> None: ...


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[None]:
    task = asyncio.create_task(pipeline.run())
    try:
        yield
    finally:
        pipeline.stop()
        await task


@asynccontextmanager
async def service(redis_url: str) -> AsyncIterator[FeatureService]:
    started = await build(FeatureSettings(redis_url=redis_url, feature_port=0, partitions=CATALOG.partitions))
    try:
        yield started
    finally:
        await started.stop()


@asynccontextmanager
async def client(
    of: FeatureService,
) -> AsyncIterator[tuple[feature_service_pb2_grpc.FeatureServiceAsyncStub, grpc.aio.Channel]]:
    async with channel(of.address) as opened:
        yield feature_service_pb2_grpc.FeatureServiceStub(opened), opened


def closes(sessions: int, seed: int = 7) -> Array:
    """Closes [sessions, universe], to the cent."""
    moves = np.random.default_rng(seed).normal(0, 0.02, (sessions, len(UNIVERSE)))
    walk: Array = np.round(80.0 * np.exp(np.cumsum(moves, axis=0)), 2)
    return walk


def tick(
    symbol: str, session: int, price: float, traceparent: str = "", *, after_us: int = 0, size: float = 0.0
) -> OutRecord:
    event_us = SESSIONS_US[session] + after_us
    message = market_data_pb2.TradeTick(
        symbol=symbol, event_time=from_us(event_us), available_at=from_us(event_us + 1_000), price=price, size=size
    )
    return OutRecord("market_data.trades", symbol, message.SerializeToString(), traceparent)


async def publish_ticks(redis: Redis, panel: Array, first_session: int = 0) -> None:
    producer = Producer(redis, CATALOG)
    for session, row in enumerate(panel.tolist(), first_session):
        await producer.send_many([tick(symbol, session, close) for symbol, close in zip(UNIVERSE, row, strict=True)])


def raw(symbol: str, name: str, session: int, value: float, **change: Any) -> RawFeature:
    event_us = T0_US + session * DAY_US
    made = RawFeature(symbol, name, value, event_us, event_us + 1_000, "test", 0, f"{symbol}:{name}:{session}")
    return made._replace(**change)


def session_of(symbol: str, session: int, **change: Any) -> list[RawFeature]:
    """Every feature of a symbol at a session, with values of their own."""
    return [raw(symbol, name, session, session + number / 100, **change) for number, name in enumerate(FEATURE_NAMES)]


async def publish_raw(redis: Redis, raws: Sequence[RawFeature], traceparent: str = "") -> None:
    await Producer(redis, CATALOG).send_many(
        [OutRecord("features.raw", r.symbol, convert.raw_payload(r), traceparent, r.event_id) for r in raws]
    )


async def entries(redis: Redis, stream: str) -> list[Record]:
    found: list[Record] = []
    for partition in range(CATALOG.partitions):
        for entry_id, fields in await redis.xrange(keys.entries(stream, partition)):
            traceparent = fields.get(keys.TRACEPARENT, b"").decode()
            found.append(Record(stream, partition, entry_id.decode(), fields[keys.PAYLOAD], traceparent))
    return found


async def length(redis: Redis, stream: str) -> int:
    return sum([await redis.xlen(keys.entries(stream, partition)) for partition in range(CATALOG.partitions)])


async def vectors(redis: Redis) -> list[feature_pb2.FeatureVector]:
    return [feature_pb2.FeatureVector.FromString(entry.payload) for entry in await entries(redis, "features.pit")]


async def dead_letters(redis: Redis, stream: str) -> list[dead_letter_pb2.DeadLetter]:
    found = await entries(redis, f"deadletter.{stream}")
    return [dead_letter_pb2.DeadLetter.FromString(entry.payload) for entry in found]


async def consumed(redis: Redis) -> bool:
    """Whether the pipeline has committed every raw feature."""
    read = 0
    for partition in range(CATALOG.partitions):
        committed = await redis.hget(keys.group("features.raw", "feature_processor", partition), "read")
        read += int(committed or 0)
    return read == await length(redis, "features.raw")
