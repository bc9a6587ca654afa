"""FeatureService as a client sees it: real server, real Redis."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from feature_svc import convert
from feature_svc.app import build
from feature_svc.features import FEATURE_NAMES
from feature_svc.pit import RawFeature, Status
from feature_svc.service import SERVICE_NAME
from feature_svc.settings import FeatureSettings
from quantmesh.feature.v1 import feature_service_pb2 as pb
from quantmesh.streams.v1 import feature_pb2
from runtime.embedded_redis import EmbeddedRedis
from runtime.errors import UnavailableError
from runtime.grpc_failure import failure_of
from runtime.times import now_us
from tests.integration.feature_svc.mesh import (
    DAY_US,
    T0_US,
    client,
    closes,
    entries,
    length,
    publish_ticks,
    raw,
    service,
    session_of,
    vectors,
)
from tests.waiting import until


def request(*raws: RawFeature, request_id: str = "") -> pb.PublishFeaturesRequest:
    messages = [feature_pb2.RawFeature.FromString(convert.raw_payload(each)) for each in raws]
    return pb.PublishFeaturesRequest(features=messages, request_id=request_id)


async def test_published_features_become_a_vector_and_a_retry_adds_nothing(redis_url: str, redis: Redis) -> None:
    async with service(redis_url) as running, client(running) as (stub, _):
        first = await stub.PublishFeatures(request(*session_of("KO", 0), request_id="mine"))
        assert (first.accepted_count, first.duplicate_count, first.request_id) == (len(FEATURE_NAMES), 0, "mine")
        again = await stub.PublishFeatures(request(*session_of("KO", 0)))
        assert (again.accepted_count, again.duplicate_count) == (0, len(FEATURE_NAMES))
        assert again.request_id
        await until(lambda: served(redis, 1))
        online = await stub.GetOnlineFeatures(pb.GetOnlineFeaturesRequest(symbols=["KO"]))
    (vector,) = await vectors(redis)
    assert list(vector.values) == [each.value for each in session_of("KO", 0)]
    assert tuple(online.feature_names) == FEATURE_NAMES
    assert set(online.vectors[0].statuses) == {feature_pb2.FEATURE_STATUS_STALE}, "it is years old by now"


async def served(redis: Redis, count: int) -> bool:
    return await length(redis, "features.pit") >= count


async def test_online_and_streamed_vectors_are_equal_bit_for_bit(redis_url: str, redis: Redis) -> None:
    async with service(redis_url) as running, client(running) as (stub, _):
        await publish_ticks(redis, closes(45))
        await until(lambda: served(redis, 20 * 43))
        newest: dict[str, list[feature_pb2.FeatureVector]] = {}
        for vector in await vectors(redis):
            newest.setdefault(vector.symbol, []).append(vector)
        compared = 0
        for symbol, streamed in newest.items():
            for vector in streamed[-5:]:
                asked = pb.GetOnlineFeaturesRequest(symbols=[symbol], as_of=vector.as_of)
                answer = await stub.GetOnlineFeatures(asked)
                assert answer.vectors[0].SerializeToString(True) == vector.SerializeToString(True)
                compared += 1
    assert compared == 100


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"symbol": ""}, "INVALID_FIELD", "symbol"),
        ({"symbol": "S" * 65}, "INVALID_FIELD", "symbol"),
        ({"symbol": "NOBODY"}, "UNKNOWN_SYMBOL", "symbol"),
        ({"name": "unheard_of"}, "UNKNOWN_FEATURE", "name"),
        ({"value": math.nan}, "NON_FINITE", "value"),
        ({"value": math.inf}, "NON_FINITE", "value"),
        ({"source": "s" * 65}, "INVALID_FIELD", "source"),
        ({"print_number": 65_536}, "INVALID_FIELD", "print_number"),
        ({"event_time_us": None}, "MISSING_TIME", "event_time"),
        ({"available_at_us": None}, "MISSING_TIME", "available_at"),
        ({"available_at_us": T0_US - 1}, "LOOK_AHEAD", "available_at"),
        ({"available_at_us": now_us() + DAY_US}, "FROM_THE_FUTURE", "available_at"),
        ({"event_id": ""}, "INVALID_FIELD", "event_id"),
        ({"event_id": "e" * 129}, "INVALID_FIELD", "event_id"),
    ],
)
async def test_one_bad_record_is_named_and_nothing_is_written(
    redis_url: str, redis: Redis, change: dict[str, Any], reason: str, field: str
) -> None:
    good, bad = raw("KO", "return_1d", 0, 1.0), raw("KO", "return_5d", 0, 1.0)._replace(**change)
    async with service(redis_url) as running, client(running) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PublishFeatures(request(good, bad))
        failure = failure_of(caught.value)
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.reason == reason
        assert [violation.field for violation in failure.violations] == [f"features[1].{field}"]
        assert await length(redis, "features.raw") == 0


async def test_limits_of_a_call(redis_url: str, redis: Redis) -> None:
    async with service(redis_url) as running, client(running) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PublishFeatures(request())
        assert [v.field for v in failure_of(caught.value).violations] == ["features"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PublishFeatures(request(raw("KO", "return_1d", 0, 1.0), request_id="r" * 129))
        assert [v.field for v in failure_of(caught.value).violations] == ["request_id"]
        too_many = [
            raw("KO", "return_1d", n % 4_000, 1.0, print_number=n // 4_000, event_id=str(n)) for n in range(10_001)
        ]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PublishFeatures(request(*too_many))
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_RECORDS")
        assert await length(redis, "features.raw") == 0
        answer = await stub.PublishFeatures(request(*too_many[:-1]))
        assert answer.accepted_count == 10_000


ASKED_WRONG = [
    (pb.GetOnlineFeaturesRequest(), "INVALID_FIELD", "symbols"),
    (pb.GetOnlineFeaturesRequest(symbols=["KO", "KO"]), "INVALID_FIELD", "symbols"),
    (pb.GetOnlineFeaturesRequest(symbols=map(str, range(1_001))), "INVALID_FIELD", "symbols"),
    (pb.GetOnlineFeaturesRequest(symbols=["KO", ""]), "INVALID_FIELD", "symbols[1]"),
    (pb.GetOnlineFeaturesRequest(symbols=["KO"], as_of=Timestamp(seconds=4_000_000_000)), "FROM_THE_FUTURE", "as_of"),
    (pb.GetOnlineFeaturesRequest(symbols=["KO"], as_of=Timestamp(nanos=-1)), "INVALID_FIELD", "as_of"),
]


@pytest.mark.parametrize(("asked", "reason", "field"), ASKED_WRONG)
async def test_a_bad_question_is_named(
    redis_url: str, asked: pb.GetOnlineFeaturesRequest, reason: str, field: str
) -> None:
    async with service(redis_url) as running, client(running) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetOnlineFeatures(asked)
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [violation.field for violation in failure.violations] == [field]


async def test_an_unknown_set_is_not_found_and_an_unknown_symbol_is_missing(redis_url: str) -> None:
    async with service(redis_url) as running, client(running) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetOnlineFeatures(pb.GetOnlineFeaturesRequest(symbols=["KO"], feature_set="nope"))
        failure = failure_of(caught.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_FEATURE_SET")
        answer = await stub.GetOnlineFeatures(pb.GetOnlineFeaturesRequest(symbols=["NOBODY", "KO"]))
    assert [vector.symbol for vector in answer.vectors] == ["NOBODY", "KO"]
    vector = answer.vectors[0]
    assert not vector.HasField("event_time")
    assert not vector.HasField("max_available_at")
    assert set(vector.statuses) == {Status.MISSING}
    assert all(math.isnan(value) for value in vector.values)


async def test_the_trace_of_the_call_goes_with_the_records(redis_url: str, redis: Redis) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    async with service(redis_url) as running, client(running) as (stub, _):
        metadata = (("traceparent", f"00-{trace}-0123456789abcdef-01"),)
        await stub.PublishFeatures(request(*session_of("KO", 0)), metadata=metadata)
        await until(lambda: served(redis, 1))
    for stream in ("features.raw", "features.pit"):
        assert {entry.traceparent.split("-")[1] for entry in await entries(redis, stream)} == {trace}


async def test_redis_away_is_a_reason_to_retry_and_the_retry_works(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        async with service(server.url) as running, client(running) as (stub, opened):
            await stub.PublishFeatures(request(*session_of("KO", 0)))
            server.stop()
            for call in (
                stub.PublishFeatures(request(*session_of("KO", 0), *session_of("KO", 1))),
                stub.GetOnlineFeatures(pb.GetOnlineFeaturesRequest(symbols=["KO"])),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                failure = failure_of(caught.value)
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "REDIS_UNAVAILABLE")
                assert failure.retry_after_s
            server.start()
            answer = await stub.PublishFeatures(request(*session_of("KO", 0), *session_of("KO", 1)))
            assert (answer.accepted_count, answer.duplicate_count) == (len(FEATURE_NAMES),) * 2
            async with Redis.from_url(server.url) as redis:
                await until(lambda: served(redis, 2))
            health = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
            assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_service_without_redis_says_how_to_get_one() -> None:
    with pytest.raises(UnavailableError, match="QUANTMESH_REDIS_URL") as caught:
        await build(FeatureSettings(redis_url=None, feature_port=0))
    assert caught.value.reason == "REDIS_NOT_CONFIGURED"
