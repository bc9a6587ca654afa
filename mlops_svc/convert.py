"""Between protobuf and the domain, both ways."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeAlias

from mlops_svc.registration import Header, Part
from mlops_svc.rollout import Change
from modelstore.artifacts import Artifact
from modelstore.manifest import Manifest
from modelstore.replicas import ReplicaState
from quantmesh.mlops.v1 import deployment_pb2, mlops_service_pb2, model_pb2
from runtime.times import from_us, to_us

Changing: TypeAlias = (
    mlops_service_pb2.PromoteRequest
    | mlops_service_pb2.RollbackRequest
    | mlops_service_pb2.StartShadowRequest
    | mlops_service_pb2.StopShadowRequest
)


async def parts(requests: AsyncIterable[mlops_service_pb2.RegisterModelRequest]) -> AsyncIterator[Part]:
    """The parts of a registration."""
    async for request in requests:
        kind = request.WhichOneof("part")
        if kind == "header":
            header = request.header
            yield Header(manifest(header.manifest), header.onnx_sha256, header.request_id)
        else:
            yield request.chunk if kind == "chunk" else None


def manifest(message: model_pb2.ModelManifest) -> Manifest:
    """A manifest, not checked."""
    return Manifest(
        name=message.name,
        strategy=message.strategy,
        feature_set=message.feature_set,
        feature_names=tuple(message.feature_names),
        prediction_unit=message.prediction_unit,
        signal_threshold=message.signal_threshold,
        framework=message.framework,
        training_data_sha256=message.training_data_sha256,
        training_cutoff_us=to_us(message.training_cutoff) if message.HasField("training_cutoff") else None,
        code_version=message.code_version,
        seed=message.seed,
        trial_count=message.trial_count,
        metrics=dict(message.metrics),
    )


def manifest_message(value: Manifest) -> model_pb2.ModelManifest:
    """The message of a manifest."""
    return model_pb2.ModelManifest(
        name=value.name,
        strategy=value.strategy,
        feature_set=value.feature_set,
        feature_names=value.feature_names,
        prediction_unit=value.prediction_unit,
        signal_threshold=value.signal_threshold,
        framework=value.framework,
        training_data_sha256=value.training_data_sha256,
        training_cutoff=None if value.training_cutoff_us is None else from_us(value.training_cutoff_us),
        code_version=value.code_version,
        seed=value.seed,
        trial_count=value.trial_count,
        metrics=value.metrics,
    )


def model_message(artifact: Artifact) -> model_pb2.RegisteredModel:
    """The message of a stored model."""
    return model_pb2.RegisteredModel(
        version=artifact.version,
        manifest=manifest_message(artifact.manifest),
        onnx_sha256=artifact.onnx_sha256,
        onnx_size_bytes=artifact.onnx_size_bytes,
    )


def change(request: Changing) -> Change:
    """What a call asks to change, not checked."""
    return Change(
        strategy=request.strategy,
        expected_generation=request.expected_generation if request.HasField("expected_generation") else None,
        reason=request.reason,
        request_id=request.request_id,
    )


def replica_messages(states: Iterable[ReplicaState]) -> list[deployment_pb2.ReplicaStatus]:
    """The messages of replicas."""
    return [
        deployment_pb2.ReplicaStatus(
            replica_id=state.replica_id,
            address=state.address,
            generation=state.generation,
            swapped=state.swapped,
            error=state.error,
            shadow=deployment_pb2.ShadowStatus(**state.shadow._asdict()) if state.shadow is not None else None,
        )
        for state in states
    ]
