"""inference_svc as a process: which of its two listeners answers, and what they have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from inference_svc.settings import InferenceSettings
from runtime import logs
from runtime.envoy import embedding
from runtime.envoy.host import become
from runtime.errors import ConfigurationError
from runtime.ports import free_port, require_free
from runtime.process import EX_CONFIG, Running, Service, load_settings, run

log = structlog.get_logger()

PORT = "QUANTMESH_INFERENCE_PORT"

# Calls that are answered within Envoy.
PREDICT = "/quantmesh.inference.v1.InferenceService/Predict"
BATCH_PREDICT = "/quantmesh.inference.v1.InferenceService/BatchPredict"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
REST_PREDICT = "/inference/predict"
REST_BATCH = "/inference/batch"


def service(build: Callable[[InferenceSettings], Coroutine[Any, Any, Running]]) -> Service[InferenceSettings]:
    """The service, wired by `build`."""
    return Service(
        "inference_svc",
        InferenceSettings,
        build,
        metrics_port=lambda settings: settings.inference_metrics_port,
        metrics_setting="QUANTMESH_INFERENCE_METRICS_PORT",
    )


def main() -> None:
    """Serve until SIGTERM or SIGINT. Never returns."""
    settings = load_settings(InferenceSettings)
    found = "INFER_LISTENER=grpcio" if settings.listener == "grpcio" else embedding.find()
    if isinstance(found, embedding.Embedding):
        _within_envoy(found, settings)
    logs.configure("inference_svc", settings)
    if settings.listener == "envoy":
        log.error(f"INFER_LISTENER=envoy, but {found}: set it to auto or grpcio")
        sys.exit(EX_CONFIG)
    if settings.listener == "auto":
        log.info(f"grpcio listens: {found}")
    from inference_svc.app import build  # with ONNX Runtime and numpy, which a keeper of Envoy has no use for

    run(service(build))


def _within_envoy(found: embedding.Embedding, settings: InferenceSettings) -> None:
    try:
        port = settings.inference_port or free_port(settings.host)
        require_free(settings.host, port, PORT)
    except ConfigurationError as error:
        logs.configure("inference_svc", settings)
        log.error(error.message)
        sys.exit(EX_CONFIG)
    become(
        found,
        settings,
        port=port,
        app="inference_svc.embedded:app",
        grpc_paths=(PREDICT, BATCH_PREDICT, MODEL_INFER),
        rest_paths=(REST_PREDICT, REST_BATCH),
        objective_ms=settings.p99_ms_target,
        variables={PORT: str(port), "QUANTMESH_HOME": str(settings.home.absolute())},
    )
