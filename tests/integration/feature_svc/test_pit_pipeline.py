"""features.raw → features.pit on a real server: each vector once, whatever happens in between."""

from __future__ import annotations

import math
from collections import defaultdict

from redis.asyncio import Redis

from feature_svc import convert
from feature_svc.features import FEATURE_NAMES
from feature_svc.pit import Status
from feature_svc.pit_pipeline import PitPipeline
from quantmesh.streams.v1 import feature_pb2
from runtime.times import to_us
from streams import OutRecord, Producer
from streams.vector_hash import hash_of
from tests.integration.feature_svc.mesh import (
    CATALOG,
    DAY_US,
    SETS,
    SKEW_US,
    T0_US,
    UNIVERSE,
    consumed,
    dead_letters,
    entries,
    length,
    publish_raw,
    raw,
    running,
    session_of,
    vectors,
)
from tests.waiting import until

TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def pipeline(redis: Redis) -> PitPipeline:
    return PitPipeline(redis, CATALOG, SETS, skew_us=SKEW_US, lease_ms=400)


async def test_each_vector_comes_once_across_restarts(redis: Redis) -> None:
    """The restarts fall between the features of a session, so that what is half collected must survive."""
    everything = [each for session in range(30) for symbol in UNIVERSE for each in session_of(symbol, session)]
    parts = [everything[:2_003], everything[2_003:5_555], everything[5_555:]]
    for part in parts:
        await publish_raw(redis, part)
        async with running(pipeline(redis)):
            await until(lambda: consumed(redis))
    by_symbol = defaultdict(list)
    for message in await vectors(redis):
        by_symbol[message.symbol].append(message)
    assert set(by_symbol) == set(UNIVERSE)
    for symbol, found in by_symbol.items():
        assert [(to_us(m.event_time) - T0_US) // DAY_US for m in found] == list(range(30)), symbol
        for session, message in enumerate(found):
            assert list(message.values) == [each.value for each in session_of(symbol, session)]
            assert set(message.statuses) == {feature_pb2.FEATURE_STATUS_OK}
            assert message.vector_hash == hash_of(message)
            assert message.as_of == message.max_available_at


async def test_what_breaks_a_rule_goes_to_the_dead_letters_and_stops_nothing(redis: Redis) -> None:
    now_us = 4_000_000_000_000_000  # 2096
    bad = {
        "LOOK_AHEAD": raw("KO", "return_1d", 1, 1.0, available_at_us=T0_US),
        "FROM_THE_FUTURE": raw("KO", "return_1d", 2, 1.0, event_time_us=now_us, available_at_us=now_us),
        "NON_FINITE": raw("KO", "return_1d", 3, math.nan),
        "MISSING_TIME": raw("KO", "return_1d", 4, 1.0, available_at_us=None),
        "UNKNOWN_SYMBOL": raw("NOBODY", "return_1d", 5, 1.0),
        "UNKNOWN_FEATURE": raw("KO", "unheard_of", 5, 1.0),
        "INVALID_FIELD": raw("KO", "return_1d", 6, 1.0, print_number=70_000),
        "PRINT_REUSED": raw("KO", "return_1d", 0, 99.0, event_id="another"),
    }
    await publish_raw(redis, session_of("KO", 0)[:3])
    await publish_raw(redis, list(bad.values()))
    await Producer(redis, CATALOG).send_many([OutRecord("features.raw", "KO", b"\xff\xff")])
    await publish_raw(redis, session_of("KO", 0)[3:])
    async with running(pipeline(redis)):
        await until(lambda: consumed(redis))
    letters = {letter.reason: letter for letter in await dead_letters(redis, "features.raw")}
    assert set(letters) == {*bad, "UNPARSABLE"}
    for reason, sent in bad.items():
        assert letters[reason].payload == convert.raw_payload(sent), "byte for byte"
    (vector,) = await vectors(redis)
    assert list(vector.values) == [each.value for each in session_of("KO", 0)]


async def test_an_incomplete_session_is_served_by_the_next_one(redis: Redis) -> None:
    await publish_raw(redis, session_of("KO", 0)[:2])
    async with running(pipeline(redis)):
        await until(lambda: consumed(redis))
        assert await length(redis, "features.pit") == 0
        await publish_raw(redis, session_of("KO", 1)[:1])
        await until(lambda: consumed(redis))
    (vector,) = await vectors(redis)
    assert to_us(vector.event_time) == T0_US
    assert tuple(vector.statuses) == (Status.OK,) * 2 + (Status.MISSING,) * (len(FEATURE_NAMES) - 2)


async def test_a_restatement_changes_no_served_vector(redis: Redis) -> None:
    await publish_raw(redis, session_of("KO", 0))
    async with running(pipeline(redis)):
        await until(lambda: consumed(redis))
        served = await entries(redis, "features.pit")
        late_us = T0_US + DAY_US
        restated = raw("KO", "return_1d", 0, 5.0, print_number=1, available_at_us=late_us, event_id="restated")
        await publish_raw(redis, [restated])
        await until(lambda: consumed(redis))
        assert await entries(redis, "features.pit") == served
        await publish_raw(redis, session_of("KO", 2)[1:])
        await publish_raw(redis, session_of("KO", 3)[:1])
        await until(lambda: consumed(redis))
    second = (await vectors(redis))[1]
    assert second.values[0] == 5.0, "what was not refreshed since is the restated value"
    assert second.value_event_times_us[0] == T0_US


async def test_a_vector_continues_the_trace_that_completed_it(redis: Redis) -> None:
    features = session_of("KO", 0)
    await publish_raw(redis, features[:-1])
    await publish_raw(redis, features[-1:], TRACE)
    await publish_raw(redis, session_of("PEP", 0))
    async with running(pipeline(redis)):
        await until(lambda: consumed(redis))
    found = {
        feature_pb2.FeatureVector.FromString(e.payload).symbol: e.traceparent
        for e in await entries(redis, "features.pit")
    }
    assert found["KO"].split("-")[1] == TRACE.split("-")[1]
    assert found["PEP"] == ""
