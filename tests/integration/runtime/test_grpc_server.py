"""The one gRPC server bootstrap, by real calls: errors, deadlines, traces, limits, health, drain."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from runtime import telemetry
from runtime.errors import InvalidInputError
from runtime.grpc_client import channel
from runtime.grpc_failure import failure_of
from runtime.grpc_server import MeshServer, ServerConfig
from tests.waiting import until

SERVICE = "quantmesh.inference.v1.InferenceService"


class Servicer(inference_service_pb2_grpc.InferenceServiceServicer):
    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.entered = asyncio.Event()
        self.inside = 0

    async def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        if request.model_name == "bug":
            raise ZeroDivisionError("the inside")
        if request.model_name == "bad":
            raise InvalidInputError.of_field("features[3]", "is odd")
        if request.model_name == "slow":
            self.entered.set()
            self.inside += 1
            await self.go_on.wait()
        return pb.PredictResponse(model_name=request.model_name)

    async def StreamPredict(self, requests: Any, context: Any) -> AsyncIterator[pb.StreamPredictResponse]:
        async for request in requests:
            traceparent = telemetry.current_traceparent()
            yield pb.StreamPredictResponse(model_name=request.model_name, request_id=traceparent)
            while request.model_name == "flood":
                yield pb.StreamPredictResponse(model_name="x" * 100_000)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[MeshServer, Servicer, Any]]:
    server = MeshServer(ServerConfig("127.0.0.1", 0, "QUANTMESH_INFERENCE_PORT", **options))
    servicer = Servicer()
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server.server)
    await server.start([SERVICE])
    async with channel(server.address) as opened:
        yield server, servicer, opened
    await server.server.stop(None)


async def failure(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return failure_of(raised.value)


async def test_a_domain_error_names_the_field() -> None:
    async with serving() as (_, _, opened):
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        found = await failure(stub.Predict(pb.PredictRequest(model_name="bad"), timeout=5))
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert [violation.field for violation in found.violations] == ["features[3]"]


async def test_a_bug_says_nothing_of_the_inside() -> None:
    async with serving() as (_, _, opened):
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        found = await failure(stub.Predict(pb.PredictRequest(model_name="bug"), timeout=5))
    assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "inside" not in found.message


async def test_bytes_that_are_no_message_are_invalid() -> None:
    async with serving() as (_, _, opened):
        found = await failure(opened.unary_unary(f"/{SERVICE}/Predict")(b"\xff\xff\xff", timeout=5))
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE")


async def test_a_call_without_a_deadline_gets_one() -> None:
    async with serving(default_deadline_s=0.1) as (_, _, opened):
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        found = await failure(stub.Predict(pb.PredictRequest(model_name="slow")))
    assert found.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_message_over_the_limit_is_refused() -> None:
    async with serving(max_message_bytes=1000) as (_, _, opened):
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        found = await failure(stub.Predict(pb.PredictRequest(features=[1.0] * 1000), timeout=5))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_over_the_limit_are_refused_with_a_reason_and_health_answers() -> None:
    async with serving(max_concurrent_rpcs=2) as (_, servicer, opened):
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        held = [asyncio.ensure_future(stub.Predict(pb.PredictRequest(model_name="slow"), timeout=20)) for _ in range(2)]
        streams = [stub.StreamPredict(timeout=20) for _ in range(2)]
        for stream in streams:
            await stream.write(pb.StreamPredictRequest())
            await stream.read()
        await until(lambda: servicer.inside == 2)
        found = await failure(stub.Predict(pb.PredictRequest(), timeout=5))
        assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert found.retry_after_s
        third = await failure(stub.StreamPredict(timeout=20).read())
        assert (third.code, third.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        health: Any = health_pb2_grpc.HealthStub(opened)
        check = health_pb2.HealthCheckRequest(service=SERVICE)
        assert (await health.Check(check, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
        servicer.go_on.set()
        await asyncio.gather(*held)
        for stream in streams:
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK
        await stub.Predict(pb.PredictRequest(), timeout=5)


async def test_no_call_of_a_burst_is_cut_off_unseen() -> None:
    async with serving(max_concurrent_rpcs=10) as (_, servicer, opened):
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        held = [
            asyncio.ensure_future(stub.Predict(pb.PredictRequest(model_name="slow"), timeout=60)) for _ in range(10)
        ]
        await until(lambda: servicer.inside == 10)
        burst = [stub.Predict(pb.PredictRequest(), timeout=60) for _ in range(4000)]
        codes = Counter([await call.code() for call in burst])
        servicer.go_on.set()
        await asyncio.gather(*held)
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_stream_that_is_cancelled_in_a_send_has_a_span_that_ends(caplog: pytest.LogCaptureFixture) -> None:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):  # it can be installed only once
        telemetry.configure("test")
    async with serving() as (_, _, opened):
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        for _ in range(20):
            stream = stub.StreamPredict(timeout=20)
            await stream.write(pb.StreamPredictRequest(model_name="flood"))
            assert (await stream.read()).request_id, "steps of a stream run within its span"
            await asyncio.sleep(0.02)  # it is held up in the middle of a send
            stream.cancel()
        await stub.Predict(pb.PredictRequest(), timeout=5)
    gc.collect()
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_drain_tells_health_and_lets_calls_in_flight_finish() -> None:
    async with serving() as (server, servicer, opened):
        health: Any = health_pb2_grpc.HealthStub(opened)
        check = health_pb2.HealthCheckRequest(service=SERVICE)
        assert (await health.Check(check, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
        stub = inference_service_pb2_grpc.InferenceServiceStub(opened)
        call = asyncio.ensure_future(stub.Predict(pb.PredictRequest(model_name="slow"), timeout=10))
        await servicer.entered.wait()
        await server.not_serving()
        assert (await health.Check(check, timeout=5)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        draining = asyncio.create_task(server.drain())
        servicer.go_on.set()
        assert (await call).model_name == "slow"
        await draining
