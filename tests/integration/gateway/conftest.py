"""A gateway in front of a real gRPC server that speaks the inference contract; its model is the sum."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from gateway.app import create_app
from gateway.settings import GatewaySettings
from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from quantmesh.inference.v1.model_pb2 import Model
from runtime import telemetry, times
from runtime.errors import FieldViolation, InvalidInputError, QuantmeshError
from runtime.grpc_server import MeshServer, ServerConfig

SERVICE = "quantmesh.inference.v1.InferenceService"
VERSION = "ab" * 32
PREDICTED_AT_US = 1_795_590_000_123_456  # 2026-11-25T07:00:00.123456Z


class SumServicer(InferenceServiceServicer):
    """Predicts the sum of the features; a model name of `failures` fails that way, one of `aborts` by bare status."""

    def __init__(self) -> None:
        self.failures: dict[str, QuantmeshError] = {}
        self.aborts: dict[str, grpc.StatusCode] = {}
        self.models = [
            Model(
                name="sum",
                version=VERSION,
                strategy="equities",
                alias="champion",
                feature_names=["a", "b"],
                generation=3,
                loaded_at=times.from_us(PREDICTED_AT_US),
                prediction_unit="fraction",
                feature_set="equities_daily",
            )
        ]
        self.calls = 0
        self.time_remaining_s: float | None = None

    async def _check(self, name: str, context: grpc.aio.ServicerContext) -> None:
        self.calls += 1
        self.time_remaining_s = context.time_remaining()
        if name in self.failures:
            raise self.failures[name]
        if name in self.aborts:
            await context.abort(self.aborts[name], "something of the inside")

    async def Predict(self, request: pb.PredictRequest, context: grpc.aio.ServicerContext) -> pb.PredictResponse:
        await self._check(request.model_name, context)
        return pb.PredictResponse(
            prediction=sum(request.features),
            model_name=request.model_name,
            model_version=VERSION,
            latency_ms=0.25,
            timestamp=times.from_us(PREDICTED_AT_US),
            request_id=request.request_id,
            generation=3,
            metadata=request.metadata,
        )

    async def BatchPredict(
        self, request: pb.BatchPredictRequest, context: grpc.aio.ServicerContext
    ) -> pb.BatchPredictResponse:
        await self._check(request.model_name, context)
        widths = {len(row.features) for row in request.batch}
        if len(widths) > 1:
            violation = FieldViolation("batch[1].features", "has another number of features")
            raise InvalidInputError("uneven rows", reason="FEATURE_COUNT_MISMATCH", violations=[violation])
        return pb.BatchPredictResponse(
            predictions=[sum(row.features) for row in request.batch],
            model_name=request.model_name,
            model_version=VERSION,
            batch_size=len(request.batch),
            latency_ms=0.5,
            timestamp=times.from_us(PREDICTED_AT_US),
            request_id=request.request_id,
            generation=3,
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self.models)

    async def GetModel(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=self.models[0])


@pytest.fixture(autouse=True)
def tracer_provider() -> TracerProvider:
    """The provider of this process, as `__main__` installs one; it can be installed only once."""
    provider = trace.get_tracer_provider()
    return provider if isinstance(provider, TracerProvider) else telemetry.configure("test")


@pytest.fixture
def servicer() -> SumServicer:
    return SumServicer()


@pytest.fixture
async def inference(servicer: SumServicer) -> AsyncIterator[MeshServer]:
    server = MeshServer(ServerConfig("127.0.0.1", 0, "TEST_PORT", drain_grace_s=0.1))
    add_InferenceServiceServicer_to_server(servicer, server.server)
    await server.start([SERVICE])
    yield server
    await server.drain()


@pytest.fixture
def settings(inference: MeshServer) -> GatewaySettings:
    return GatewaySettings(inference_address=inference.address, gateway_timeout_s=2.0, gateway_max_body_bytes=100_000)


@pytest.fixture
async def rest(settings: GatewaySettings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client,
    ):
        yield client
