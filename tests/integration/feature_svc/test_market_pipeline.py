"""market_data.trades → features.raw on a real server: the bulk features, each once, however often it is restarted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from redis.asyncio import Redis

from feature_svc import convert, market_pipeline
from feature_svc.features import FEATURE_NAMES, Array, compute_panel
from feature_svc.market_pipeline import MarketPipeline
from quantmesh.streams.v1 import market_data_pb2
from streams import OutRecord, Producer, Record
from tests.integration.feature_svc.mesh import (
    CATALOG,
    DAY_US,
    SETS,
    SKEW_US,
    T0_US,
    UNIVERSE,
    closes,
    dead_letters,
    entries,
    length,
    publish_ticks,
    running,
    tick,
)
from tests.waiting import until

TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def pipeline(redis: Redis) -> MarketPipeline:
    return MarketPipeline(
        redis, CATALOG, Producer(redis, CATALOG), SETS.get("equities_daily"), skew_us=SKEW_US, lease_ms=400
    )


def assert_is_the_panel(found: list[Record], panel: Array) -> None:
    """Exactly the finite values of the panel, bit for bit."""
    raws = [convert.parse_raw(entry.payload) for entry in found]
    repeated = [event_id for event_id, times in Counter(each.event_id for each in raws).items() if times > 1]
    assert repeated == []
    rebuilt = np.full_like(panel, np.nan)
    for each in raws:
        assert each.event_time_us is not None
        session = (each.event_time_us - T0_US) // DAY_US
        assert each.available_at_us == each.event_time_us + 1_000
        rebuilt[session, UNIVERSE.index(each.symbol), FEATURE_NAMES.index(each.name)] = each.value
    assert np.array_equal(rebuilt.view(np.uint64), panel.view(np.uint64))


async def test_features_are_the_bulk_ones_bit_for_bit(redis: Redis) -> None:
    prices = closes(40)
    panel = compute_panel(prices)
    expected = int(np.isfinite(panel).sum())
    await publish_ticks(redis, prices)
    async with running(pipeline(redis)):
        await until(lambda: arrived(redis, expected))
    assert_is_the_panel(await entries(redis, "features.raw"), panel)


async def arrived(redis: Redis, count: int) -> bool:
    return await length(redis, "features.raw") >= count


async def test_a_restart_goes_on_where_it_was_even_with_partitions_far_apart(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ticks that are all there are read as many from each partition, so the one with few symbols runs far ahead; and
    the history read at first is far too short."""
    monkeypatch.setattr(market_pipeline, "_SLACK_SESSIONS", -240)
    prices = closes(420)
    panel = compute_panel(prices)
    expected = int(np.isfinite(panel).sum())
    await publish_ticks(redis, prices)
    for fraction in (0.3, 0.6, 0.9, 1.0):
        async with running(pipeline(redis)):
            await until(lambda: arrived(redis, int(expected * fraction)))  # noqa: B023
    assert_is_the_panel(await entries(redis, "features.raw"), panel)


async def test_bad_ticks_go_to_the_dead_letters_and_stop_nothing(redis: Redis) -> None:
    no_time = market_data_pb2.TradeTick(symbol="KO", price=1.0)
    producer = Producer(redis, CATALOG)
    prices = closes(2)
    await publish_ticks(redis, prices)
    await producer.send_many(
        [
            tick("KO", 5, -1.0),
            tick("NOBODY", 5, 1.0),
            tick("KO", 0, 1.0),
            OutRecord("market_data.trades", "KO", no_time.SerializeToString()),
            OutRecord("market_data.trades", "KO", b"\xff"),
        ]
    )
    async with running(pipeline(redis)):
        await until(lambda: arrived(redis, 2 * len(UNIVERSE)))
        await until(lambda: dead(redis, 5))
    letters = await dead_letters(redis, "market_data.trades")
    assert sorted(letter.reason for letter in letters) == [
        "BAD_PRICE",
        "LATE_TICK",
        "MISSING_TIME",
        "UNKNOWN_SYMBOL",
        "UNPARSABLE",
    ]
    assert_is_the_panel(await entries(redis, "features.raw"), compute_panel(prices))


async def dead(redis: Redis, count: int) -> bool:
    return len(await dead_letters(redis, "market_data.trades")) >= count


async def test_raw_features_continue_the_trace_of_their_symbols_tick(redis: Redis) -> None:
    prices = closes(2).tolist()
    producer = Producer(redis, CATALOG)
    for session, row in enumerate(prices):
        await producer.send_many(
            [tick(s, session, price, TRACE if s == "KO" else "") for s, price in zip(UNIVERSE, row, strict=True)]
        )
    async with running(pipeline(redis)):
        await until(lambda: arrived(redis, 2 * len(UNIVERSE)))
    for entry in await entries(redis, "features.raw"):
        traced = convert.parse_raw(entry.payload).symbol == "KO"
        assert (entry.traceparent.split("-")[1:2] == TRACE.split("-")[1:2]) == traced
