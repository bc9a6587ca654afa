"""The gateway's client of the inference service: a deadline on every call, retries only where they are safe."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quantmesh.inference.v1.inference_service_pb2 import (
    BatchPredictRequest,
    BatchPredictResponse,
    ListModelsRequest,
    PredictRequest,
    PredictResponse,
)
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from quantmesh.inference.v1.model_pb2 import Model
from runtime.grpc_failure import failure_of
from runtime.rest.bodies import too_large
from runtime.rest.problems import problem_of

SERVICE = "quantmesh.inference.v1.InferenceService"
_HEALTH_DEADLINE_S = 1.0
_RETRY_WAITS_S = (0.02, 0.05, 0.1, 0.2, 0.4)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class Inference:
    """Calls the inference service. Failures are raised as Problem."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float, max_message_bytes: int) -> None:
        self._stub = InferenceServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs know only the synchronous channel
        self._timeout_s = timeout_s
        self._max_message_bytes = max_message_bytes

    async def predict(self, request: PredictRequest) -> PredictResponse:
        """Score one row."""
        return await self.call(self._stub.Predict, request)

    async def batch_predict(self, request: BatchPredictRequest) -> BatchPredictResponse:
        """Score rows."""
        return await self.call(self._stub.BatchPredict, request)

    async def models(self) -> list[Model] | None:
        """The loaded models; None when the service cannot be reached."""
        try:
            response = await self._stub.ListModels(ListModelsRequest(), timeout=_HEALTH_DEADLINE_S)
        except grpc.aio.AioRpcError:
            return None
        return list(response.models)

    async def health(self) -> str:
        """Health of the service by name, such as `SERVING`; `UNREACHABLE` when it does not answer."""
        try:
            response = await self._health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=_HEALTH_DEADLINE_S
            )
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Call with a deadline. A prediction changes nothing, so UNAVAILABLE is tried again, for under a second."""
        size = request.ByteSize()
        if size > self._max_message_bytes:  # JSON may be shorter than the same numbers as doubles
            raise too_large(f"the rows need {size} bytes as numbers; at most {self._max_message_bytes} are allowed")
        deadline = time.monotonic() + self._timeout_s
        waits = iter(_RETRY_WAITS_S)
        while True:
            try:
                return await method(request, timeout=max(0.0, deadline - time.monotonic()))
            except grpc.aio.AioRpcError as error:
                wait_s = next(waits, self._timeout_s)
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() + wait_s >= deadline:
                    raise problem_of(failure_of(error)) from error
            await asyncio.sleep(wait_s)
