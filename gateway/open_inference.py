"""The Open Inference Protocol over HTTP (/v2): the same protocol's gRPC calls, in JSON and raw tensors.

Errors are the protocol's `{"error": …}`, with the mesh's stable `reason` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

import grpc.aio
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from gateway.inference import Inference
from gateway.open_inference_bodies import as_json, infer_request, infer_response, json_object
from gateway.settings import GatewaySettings
from inference import grpc_service_pb2 as pb
from inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from runtime.rest.problems import Problem


class _Route(APIRoute):
    """Answers a problem as the protocol has errors."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Problem as problem:
                body = {"error": problem.detail, "reason": problem.reason}
                return JSONResponse(body, problem.status_code, dict(problem.headers or {}))

        return handled


router = APIRouter(prefix="/v2", route_class=_Route)


class OpenInference:
    """Calls the service; failures are raised as Problem."""

    def __init__(self, channel: grpc.aio.Channel, inference: Inference) -> None:
        self.stub = GRPCInferenceServiceStub(channel)
        self.call = inference.call


def _service(request: Request) -> OpenInference:
    service: OpenInference = request.app.state.open_inference
    return service


Service = Annotated[OpenInference, Depends(_service)]


@router.get("", summary="What serves")
async def server_metadata(service: Service) -> JSONResponse:
    """Name, version and extensions of the protocol."""
    answer = await service.call(service.stub.ServerMetadata, pb.ServerMetadataRequest())
    return JSONResponse(as_json(answer))


@router.get("/health/live", summary="Whether the gateway answers")
async def server_live() -> JSONResponse:
    """200, whatever the inference service does."""
    return JSONResponse({"live": True})


@router.get("/health/ready", summary="Whether predictions can be had")
async def server_ready(service: Service) -> JSONResponse:
    """200 when the inference service serves, 503 when not."""
    answer = await service.call(service.stub.ServerReady, pb.ServerReadyRequest())
    return JSONResponse({"ready": answer.ready}, HTTPStatus.OK if answer.ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/models/stats", summary="What all models have done")
async def statistics(service: Service) -> JSONResponse:
    """Of every loaded version."""
    answer = await service.call(service.stub.ModelStatistics, pb.ModelStatisticsRequest())
    return JSONResponse(as_json(answer))


@router.get("/models/{name}/versions/{version}", include_in_schema=False)
@router.get("/models/{name}", summary="Tensors of a model")
async def model_metadata(service: Service, name: str, version: str = "") -> JSONResponse:
    """What it takes and gives."""
    answer = await service.call(service.stub.ModelMetadata, pb.ModelMetadataRequest(name=name, version=version))
    return JSONResponse(as_json(answer))


@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
@router.get("/models/{name}/ready", summary="Whether a model is loaded")
async def model_ready(service: Service, name: str, version: str = "") -> JSONResponse:
    """200 when it is, 404 when not."""
    answer = await service.call(service.stub.ModelReady, pb.ModelReadyRequest(name=name, version=version))
    status = HTTPStatus.OK if answer.ready else HTTPStatus.NOT_FOUND
    return JSONResponse({"name": name, "ready": answer.ready}, status)


@router.get("/models/{name}/versions/{version}/config", include_in_schema=False)
@router.get("/models/{name}/config", summary="How a model is run")
async def model_config(service: Service, name: str, version: str = "") -> JSONResponse:
    """The protocol's model configuration."""
    answer = await service.call(service.stub.ModelConfig, pb.ModelConfigRequest(name=name, version=version))
    return JSONResponse(as_json(answer.config))


@router.get("/models/{name}/versions/{version}/stats", include_in_schema=False)
@router.get("/models/{name}/stats", summary="What a model has done")
async def model_statistics(service: Service, name: str, version: str = "") -> JSONResponse:
    """Counts and times since it was loaded."""
    answer = await service.call(service.stub.ModelStatistics, pb.ModelStatisticsRequest(name=name, version=version))
    return JSONResponse(as_json(answer))


@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
@router.post("/models/{name}/infer", summary="Run a model on tensors")
async def infer(request: Request, service: Service, name: str, version: str = "") -> Response:
    """Tensors in JSON, or raw after it (`Inference-Header-Content-Length`); gzip and deflate both ways."""
    settings: GatewaySettings = request.app.state.settings
    call, binary = await infer_request(request, settings.gateway_max_body_bytes)
    call.model_name, call.model_version = name, version
    answer = await service.call(service.stub.ModelInfer, call)
    return infer_response(answer, binary, request.headers.get("accept-encoding", ""))


@router.post("/repository/index", summary="The loaded models")
async def repository_index(service: Service) -> JSONResponse:
    """Strategies and the digests of their versions."""
    answer = await service.call(service.stub.RepositoryIndex, pb.RepositoryIndexRequest())
    return JSONResponse([as_json(each) for each in answer.models])


@router.post("/repository/models/{name}/load", summary="Nothing, for a model that is loaded")
async def load(request: Request, service: Service, name: str) -> JSONResponse:
    """409 for one that is not: what is loaded follows deployments."""
    settings: GatewaySettings = request.app.state.settings
    call = pb.RepositoryModelLoadRequest(model_name=name)
    for key in (await json_object(request, settings.gateway_max_body_bytes)).get("parameters") or ():
        call.parameters[str(key)].string_param = ""  # whatever it is, it is refused
    await service.call(service.stub.RepositoryModelLoad, call)
    return JSONResponse({})


@router.post("/repository/models/{name}/unload", summary="Refused")
async def unload(service: Service, name: str) -> JSONResponse:
    """409: what is loaded follows deployments."""
    await service.call(service.stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=name))
    return JSONResponse({})


@router.api_route("/{path:path}", methods=["GET", "POST"], include_in_schema=False)
async def nothing_else(path: str) -> Response:
    """What the protocol may have and this service does not: shared memory, trace settings, log settings."""
    raise Problem(
        HTTPStatus.NOT_IMPLEMENTED,
        f"/v2/{path[:80]}: there is no such path here, and no shared memory, trace settings or log settings",
        reason="NOT_IMPLEMENTED",
    )
