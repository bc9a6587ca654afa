"""Wire the gateway: routes, problems, the edge, and one gRPC channel that lives as long as the application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from gateway import docs, open_inference, routes
from gateway.edge import Edge
from gateway.inference import Inference
from gateway.problems import install
from gateway.settings import GatewaySettings
from runtime import grpc_client
from runtime.rest.problems import ProblemDetails
from runtime.rest.shapes import BatchBody, PredictBody


class _Gateway(FastAPI):
    """FastAPI whose document also holds the shapes that routes read or raise by themselves."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            _, extra = models_json_schema(
                [(PredictBody, "validation"), (BatchBody, "validation"), (ProblemDetails, "validation")],
                ref_template="#/components/schemas/{model}",
            )
            document = super().openapi()
            document["components"]["schemas"].update(extra["$defs"])
        return super().openapi()


def create_app(settings: GatewaySettings) -> FastAPI:
    """Make the application. Its channel opens at startup and closes at shutdown (the ASGI lifespan)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        channel = grpc_client.channel(settings.inference_address, settings.max_message_bytes)
        app.state.inference = Inference(channel, settings.gateway_timeout_s, settings.max_message_bytes)
        app.state.open_inference = open_inference.OpenInference(channel, app.state.inference)
        app.state.started_s = time.monotonic()
        yield
        await channel.close()

    app = _Gateway(
        title="quantmesh",
        summary="Predictions over REST",
        version="1",
        lifespan=lifespan,
        openapi_url=None,  # gateway.docs serves it, and the page that shows it
        docs_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redoc_url=None,
        # Edge makes the one span and the metrics of a request; FastAPI's own would be second ones.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    app.include_router(routes.router)
    app.include_router(open_inference.router)
    app.include_router(docs.router)
    install(app)
    app.add_middleware(Edge)
    return app
