"""inference.GRPCInferenceService: protobuf in, the use case, protobuf out. Errors are the listener's business."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, NoReturn

from inference import grpc_service_pb2 as pb
from inference import grpc_service_pb2_grpc
from inference_svc.model_names import DEFAULT
from inference_svc.oip import describe
from inference_svc.oip.calls import Begun, Calls
from inference_svc.registry import Registry, Target
from inference_svc.service import STREAM_WINDOW_ROWS, Context, Latency, weight
from inference_svc.settings import InferenceSettings
from inference_svc.streaming import in_order
from runtime.errors import FailedPreconditionError, NotFoundError, QuantmeshError, UnimplementedError

SERVICE_NAME = "inference.GRPCInferenceService"

_WANTS_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"
"""With these a client of a stream learns which response is a request's last. Here each is."""


class OpenInferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """The servicer."""

    def __init__(
        self, calls: Calls, registry: Registry, settings: InferenceSettings, serving: Callable[[], bool]
    ) -> None:
        """`serving` says whether calls are still to be sent here."""
        self._calls = calls
        self._registry = registry
        self._settings = settings
        self._serving = serving
        self._latency = Latency("ModelInfer", settings.p99_ms_target)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        started = time.perf_counter()
        response = await self._calls.begin(request, context.time_remaining()).result()
        self._latency.since(started)
        return response

    async def ModelStreamInfer(
        self, requests: AsyncIterable[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async with aclosing(in_order(requests, self._begin_streamed, STREAM_WINDOW_ROWS, _weight)) as responses:
            async for response in responses:
                yield response

    def _begin_streamed(self, request: pb.ModelInferRequest) -> _Streamed:
        return _Streamed(request, self._calls)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._serving())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._calls.target(request.name, request.version)
        except NotFoundError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._serving())

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return describe.server_metadata()

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        target = self._calls.target(request.name, request.version)
        versions = [each.loaded.version for each in self._of(target.strategy)]
        return describe.model_metadata(request.name or DEFAULT, dict.fromkeys(versions), self._calls.plan(target))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        target = self._calls.target(request.name, request.version)
        return pb.ModelConfigResponse(
            config=describe.model_config(
                request.name or DEFAULT,
                self._calls.plan(target),
                max_rows=self._settings.max_batch_rows,
                call_rows=self._settings.batch_size,
            )
        )

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        named = request.name or request.version
        targets = [self._calls.target(request.name, request.version)] if named else self._of("")
        return pb.ModelStatisticsResponse(
            model_stats=[describe.model_statistics(each, self._calls.plan(each)) for each in targets]
        )

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        return pb.RepositoryIndexResponse(models=map(describe.model_index, self._of("")))

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        if request.parameters:
            raise _follows_deployments("a version is loaded as it was registered, without parameters")
        try:
            self._calls.target(request.model_name, "")
        except NotFoundError as error:
            raise _follows_deployments(error.message) from error
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        target = self._calls.target(request.model_name, "")
        raise _follows_deployments(f"{target.strategy!r} is deployed at generation {target.generation}")

    async def SystemSharedMemoryStatus(self, request: Any, context: Context) -> NoReturn:
        raise _no_shared_memory()

    async def SystemSharedMemoryRegister(self, request: Any, context: Context) -> NoReturn:
        raise _no_shared_memory()

    async def SystemSharedMemoryUnregister(self, request: Any, context: Context) -> NoReturn:
        raise _no_shared_memory()

    async def CudaSharedMemoryStatus(self, request: Any, context: Context) -> NoReturn:
        raise _no_shared_memory()

    async def CudaSharedMemoryRegister(self, request: Any, context: Context) -> NoReturn:
        raise _no_shared_memory()

    async def CudaSharedMemoryUnregister(self, request: Any, context: Context) -> NoReturn:
        raise _no_shared_memory()

    async def TraceSetting(self, request: Any, context: Context) -> NoReturn:
        raise UnimplementedError(
            "traces are OpenTelemetry's: set OTEL_EXPORTER_OTLP_ENDPOINT where the service is started",
            reason="NO_TRACE_SETTINGS",
        )

    async def LogSettings(self, request: Any, context: Context) -> NoReturn:
        raise UnimplementedError("logs are set up where the service is started", reason="NO_LOG_SETTINGS")

    def _of(self, strategy: str) -> list[Target]:
        """What is loaded here of a strategy; of all when it is empty. A challenger is loaded elsewhere."""
        return [
            each
            for each in self._registry.current.targets()
            if strategy in ("", each.strategy) and each.role != "challenger"
        ]


class _Streamed:
    """One request of a stream, under way from the moment it is made. A fault of its own is its answer."""

    def __init__(self, request: pb.ModelInferRequest, calls: Calls) -> None:
        self._request = request
        self._begun: Begun | None = None
        self._error: QuantmeshError | None = None
        try:
            self._begun = calls.begin(request, None, patient=True)
        except QuantmeshError as error:
            self._error = error

    def cancel(self) -> None:
        """The stream has ended: nobody waits for the answer."""
        if self._begun is not None:
            self._begun.cancel()

    async def result(self) -> pb.ModelStreamInferResponse:
        """The answer."""
        error = self._error
        response = None
        if self._begun is not None:
            try:
                response = await self._begun.result()
            except QuantmeshError as failed:
                error = failed
        if response is None:
            response = pb.ModelInferResponse(model_name=self._request.model_name or DEFAULT, id=self._request.id)
        if _WANTS_FINAL in self._request.parameters:
            response.parameters[_FINAL].bool_param = True
        return pb.ModelStreamInferResponse(
            error_message=f"{error.reason}: {error.message}" if error else "", infer_response=response
        )


def _follows_deployments(why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"what is loaded follows deployments: `quantmesh promote` puts a version in, `quantmesh rollback` takes it "
        f"back ({why})",
        reason="FOLLOWS_DEPLOYMENTS",
    )


def _no_shared_memory() -> UnimplementedError:
    return UnimplementedError(
        "there is no shared memory here: send and take values in messages", reason="NO_SHARED_MEMORY"
    )


def _weight(request: pb.ModelInferRequest) -> int:
    shape = request.inputs[0].shape if request.inputs else ()
    return weight(shape[0] if shape else 0)
