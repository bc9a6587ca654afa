"""gRPC answers as the plain data that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quantmesh.inference.v1.inference_service_pb2 import BatchPredictResponse, PredictResponse
from quantmesh.inference.v1.model_pb2 import Model
from quantmesh.mlops.v1.deployment_pb2 import Deployment, ReplicaStatus, ShadowStatus
from quantmesh.mlops.v1.mlops_service_pb2 import (
    PromoteResponse,
    RollbackResponse,
    StartShadowResponse,
    StopShadowResponse,
)
from quantmesh.mlops.v1.model_pb2 import RegisteredModel


def prediction(response: PredictResponse) -> dict[str, Any]:
    """One prediction."""
    return {"prediction": response.prediction, **_origin(response)}


def predictions(response: BatchPredictResponse) -> dict[str, Any]:
    """Predictions of a batch."""
    return {"predictions": list(response.predictions), "batch_size": response.batch_size, **_origin(response)}


def _origin(response: PredictResponse | BatchPredictResponse) -> dict[str, Any]:
    return {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "generation": response.generation,
        "latency_ms": response.latency_ms,
        "timestamp": response.timestamp.ToJsonString(),
        "request_id": response.request_id,
    }


def model(message: Model) -> dict[str, Any]:
    """One loaded model."""
    return {
        "strategy": message.strategy,
        "alias": message.alias,
        "name": message.name,
        "version": message.version,
        "generation": message.generation,
        "feature_set": message.feature_set,
        "feature_names": list(message.feature_names),
        "prediction_unit": message.prediction_unit,
        "loaded_at": message.loaded_at.ToJsonString(),
    }


def registered(message: RegisteredModel) -> dict[str, Any]:
    """One stored model."""
    return {
        "version": message.version,
        "name": message.manifest.name,
        "strategy": message.manifest.strategy,
        "feature_set": message.manifest.feature_set,
        "feature_names": list(message.manifest.feature_names),
        "framework": message.manifest.framework,
        "onnx_sha256": message.onnx_sha256,
        "onnx_size_bytes": message.onnx_size_bytes,
    }


def deployment(message: Deployment) -> dict[str, Any]:
    """One deployment."""
    return {
        "strategy": message.strategy,
        "generation": message.generation,
        "champion_version": message.champion_version,
        "previous_version": message.previous_version,
        "challenger_version": message.challenger_version,
        "updated_at": message.updated_at.ToJsonString(),
        "reason": message.reason,
    }


def replicas(messages: Iterable[ReplicaStatus]) -> list[dict[str, Any]]:
    """The replicas of a deployment."""
    return [
        {
            "replica_id": message.replica_id,
            "address": message.address,
            "generation": message.generation,
            "swapped": message.swapped,
            "error": message.error,
            "shadow": _shadow(message.shadow) if message.HasField("shadow") else None,
        }
        for message in messages
    ]


def _shadow(message: ShadowStatus) -> dict[str, Any]:
    return {
        "challenger_version": message.challenger_version,
        "ready": message.ready,
        "error": message.error,
        "rows_scored": message.rows_scored,
        "rows_dropped": message.rows_dropped,
    }


def change(response: PromoteResponse | RollbackResponse | StopShadowResponse) -> dict[str, Any]:
    """What a promotion, a rollback or the end of a shadow did."""
    return {**_changed(response), "all_swapped": response.all_swapped}


def shadow_started(response: StartShadowResponse) -> dict[str, Any]:
    """What the start of a shadow did."""
    return {**_changed(response), "all_ready": response.all_ready}


def _changed(
    response: PromoteResponse | RollbackResponse | StartShadowResponse | StopShadowResponse,
) -> dict[str, Any]:
    return {
        "deployment": deployment(response.deployment),
        "replicas": replicas(response.replicas),
        "elapsed_ms": response.elapsed_ms,
    }
