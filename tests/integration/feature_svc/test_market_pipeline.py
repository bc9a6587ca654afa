"""market_data.trades → features.raw on a real server: the bulk features, each once, however often it is restarted."""

from __future__ import annotations

from collections import Counter

import numpy as np
from redis.asyncio import Redis
from structlog.testing import capture_logs

from feature_svc import closes as closes_kept
from feature_svc import convert, metrics
from feature_svc.features import FEATURE_NAMES, Array, compute_panel
from feature_svc.market_pipeline import MarketPipeline
from quantmesh.streams.v1 import market_data_pb2
from streams import OutRecord, Producer, Record, keys
from tests.integration.feature_svc.mesh import (
    CATALOG,
    SESSIONS_US,
    SETS,
    SKEW_US,
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
    assert all(each.event_id.startswith("feature_svc|") for each in raws), "nobody else's ids look like it"
    rebuilt = np.full_like(panel, np.nan)
    for each in raws:
        assert each.event_time_us is not None
        session = SESSIONS_US.index(each.event_time_us)
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


async def test_a_restart_goes_on_where_it_was_even_with_partitions_far_apart(redis: Redis) -> None:
    """Ticks that are all there are read as many from each partition, so the one with few symbols runs far ahead."""
    prices = closes(420)
    panel = compute_panel(prices)
    expected = int(np.isfinite(panel).sum())
    await publish_ticks(redis, prices)
    for fraction in (0.3, 0.6, 0.9, 1.0):
        async with running(pipeline(redis)):
            await until(lambda: arrived(redis, int(expected * fraction)))  # noqa: B023
    assert_is_the_panel(await entries(redis, "features.raw"), panel)
    kept = await length(redis, closes_kept.NAME)
    assert kept == 253 * len(UNIVERSE), "what no window holds any more is let go of"


async def test_a_feed_of_trades_changes_nothing_even_when_the_stream_forgot_the_closes(redis: Redis) -> None:
    """Prints by the second push the closes out of the ticks' own stream, and a restart goes on all the same."""
    prices = closes(30)
    panel = compute_panel(prices)
    expected = np.isfinite(panel).sum(axis=(1, 2)).cumsum()
    producer = Producer(redis, CATALOG)
    before = skipped("INTRADAY")
    for session in range(30):
        async with running(pipeline(redis)):
            for symbol in UNIVERSE[:3]:
                early = tick(symbol, session, 1.0, after_us=-3_600_000_000, size=100.0)
                at_the_bell = tick(symbol, session, 2.0, size=100.0)
                late = tick(symbol, session, 3.0, after_us=1, size=100.0)
                await producer.send_many([early, at_the_bell, late])
            await producer.send_many([tick("NOBODY", session, 1.0)])
            await publish_ticks(redis, prices[session : session + 1], session)
            await until(lambda: arrived(redis, int(expected[session])))  # noqa: B023
            await until(lambda: all_read(redis))
        for partition in range(CATALOG.partitions):
            await redis.xtrim(keys.entries("market_data.trades", partition), maxlen=0, approximate=False)
    assert_is_the_panel(await entries(redis, "features.raw"), panel)
    assert await dead_letters(redis, "market_data.trades") == []
    assert skipped("INTRADAY") - before == 30 * 3 * 3


def skipped(reason: str) -> float:
    return metrics.SKIPPED_TICKS.labels(reason)._value.get()


async def all_read(redis: Redis) -> bool:
    """Whether the pipeline has committed every tick."""
    for partition in range(CATALOG.partitions):
        committed = await redis.hget(keys.group("market_data.trades", "trade_consumer", partition), "offset")
        newest = await redis.xrevrange(keys.entries("market_data.trades", partition), count=1)
        if newest and committed != newest[0][0]:
            return False
    return True


async def test_a_death_between_keeping_the_closes_and_committing_is_no_fault(redis: Redis) -> None:
    """The closes are kept, the offset is not committed: the same ticks are read again, and known."""
    prices = closes(300)[:, :1].repeat(len(UNIVERSE), axis=1)
    await publish_ticks(redis, prices)
    whole = int(np.isfinite(compute_panel(prices)).sum())
    async with running(pipeline(redis)):
        await until(lambda: arrived(redis, whole))
        await until(lambda: all_read(redis))
    published = await entries(redis, "features.raw")
    for partition in range(CATALOG.partitions):
        group = keys.group("market_data.trades", "trade_consumer", partition)
        (newest, *_, oldest) = await redis.xrevrange(keys.entries("market_data.trades", partition), count=50)
        assert await redis.hget(group, "offset") == newest[0]
        await redis.hset(group, "offset", oldest[0])
    async with running(pipeline(redis)):
        await until(lambda: all_read(redis))
    assert await entries(redis, "features.raw") == published
    assert await dead_letters(redis, "market_data.trades") == []


async def test_a_partition_that_says_nothing_is_named_once(redis: Redis) -> None:
    mute = {symbol for symbol in UNIVERSE if CATALOG.partition_of(symbol) == CATALOG.partition_of("KO")}
    producer = Producer(redis, CATALOG)
    with capture_logs() as logs:
        async with running(pipeline(redis)):
            for session in range(12):
                await producer.send_many([tick(s, session, 10.0) for s in UNIVERSE if s not in mute])
                await until(lambda: all_read(redis))
            assert metrics.OPEN_SESSIONS._value.get() == 12
            assert metrics.BEHIND_S._value.get() == (SESSIONS_US[11] - SESSIONS_US[0]) / 1e6
            await publish_ticks(redis, closes(13)[12:], 12)
            await until(lambda: all_read(redis))
            assert metrics.OPEN_SESSIONS._value.get() < 12
    (warning,) = [each for each in logs if each["log_level"] == "warning"]
    assert set(warning["symbols"]) == mute


async def test_bad_ticks_go_to_the_dead_letters_and_stop_nothing(redis: Redis) -> None:
    no_time = market_data_pb2.TradeTick(symbol="KO", price=1.0)
    producer = Producer(redis, CATALOG)
    prices = closes(2)
    await publish_ticks(redis, prices)
    await producer.send_many(
        [
            tick("KO", 5, -1.0),
            tick("KO", 0, 1.0),
            OutRecord("market_data.trades", "KO", no_time.SerializeToString()),
            OutRecord("market_data.trades", "KO", b"\xff"),
        ]
    )
    async with running(pipeline(redis)):
        await until(lambda: arrived(redis, 2 * len(UNIVERSE)))
        await until(lambda: dead(redis, 4))
    letters = await dead_letters(redis, "market_data.trades")
    assert sorted(letter.reason for letter in letters) == [
        "BAD_PRICE",
        "LATE_TICK",
        "MISSING_TIME",
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
