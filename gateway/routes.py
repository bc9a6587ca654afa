"""The REST paths. Each reads a shape, makes one gRPC call and answers a shape."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated, Any

import prometheus_client
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel

from gateway import convert
from gateway.bodies import read_body
from gateway.inference import Inference
from gateway.problems import documented
from gateway.schemas import HealthAnswer
from gateway.settings import GatewaySettings
from runtime.rest import predictions
from runtime.rest.problems import RETRY_AFTER_S, Problem
from runtime.rest.shapes import BatchAnswer, BatchBody, PredictAnswer, PredictBody

router = APIRouter()

_FAULTS = documented(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)

_INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>quantmesh</title>
<h1>quantmesh gateway</h1>
<ul>
<li><a href="/docs">/docs</a>: the REST interface</li>
<li><a href="/inference/health">/inference/health</a>: status and loaded models</li>
<li><a href="/metrics">/metrics</a>: Prometheus</li>
</ul>
</html>
"""


def _inference(request: Request) -> Inference:
    inference: Inference = request.app.state.inference
    return inference


def _settings(request: Request) -> GatewaySettings:
    settings: GatewaySettings = request.app.state.settings
    return settings


InferenceOfApp = Annotated[Inference, Depends(_inference)]
SettingsOfApp = Annotated[GatewaySettings, Depends(_settings)]


def _takes(shape: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a body that a route reads by itself."""
    reference = {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


@router.post("/inference/predict", summary="Score one row", responses=_FAULTS, openapi_extra=_takes(PredictBody))
async def predict(request: Request, inference: InferenceOfApp, settings: SettingsOfApp) -> PredictAnswer:
    """Score one row of features with the champion, or with the model named."""
    body = await read_body(request, PredictBody, settings.gateway_max_body_bytes)
    return predictions.predict_answer(await inference.predict(predictions.predict_request(body)))


@router.post("/inference/batch", summary="Score many rows", responses=_FAULTS, openapi_extra=_takes(BatchBody))
async def batch(request: Request, inference: InferenceOfApp, settings: SettingsOfApp) -> BatchAnswer:
    """Score rows in one call of the model: all by the same version, or none."""
    body = await read_body(request, BatchBody, settings.gateway_max_body_bytes)
    try:
        return predictions.batch_answer(await inference.batch_predict(predictions.batch_request(body)))
    except Problem as problem:
        problem.errors = tuple(predictions.batch_field(error) for error in problem.errors)
        raise


@router.head("/inference/health", include_in_schema=False)
@router.get(
    "/inference/health",
    summary="Status, loaded models, uptime",
    responses={503: {"model": HealthAnswer, "description": "The inference service cannot be reached"}},
)
async def health(request: Request, response: Response, inference: InferenceOfApp) -> HealthAnswer:
    """Whether predictions can be had. 200 when the inference service answers, 503 when it cannot be reached."""
    serving = await inference.health()
    models = None if serving == "UNREACHABLE" else await inference.models()
    if models is None:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        response.headers["retry-after"] = str(RETRY_AFTER_S)
    return HealthAnswer(
        status="unavailable" if models is None else "ok" if serving == "SERVING" and models else "degraded",
        models=[convert.loaded_model(model) for model in models or ()],
        uptime_s=time.monotonic() - request.app.state.started_s,
        inference=serving,
    )


@router.get("/metrics", summary="Prometheus metrics of the gateway", response_class=Response)
async def metrics(request: Request) -> Response:
    """Text or OpenMetrics, as the scraper asks."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(prometheus_client.REGISTRY), media_type=content_type)


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def index() -> HTMLResponse:
    """Where to go from here."""
    return HTMLResponse(_INDEX)
