"""Register models and decide which one serves: the gRPC calls that an operator's script makes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from examples.us_equities.training import FEATURE_NAMES, FRAMEWORK, SEED, TRIAL_COUNT, TrainedModel
from quantmesh.mlops.v1 import mlops_service_pb2, mlops_service_pb2_grpc, model_pb2
from runtime.times import from_us

STRATEGY = "us_equities"
FEATURE_SET = "equities_daily"

_CHUNK_BYTES = 1 << 20
_DEADLINE_S = 30.0


def manifest(model: TrainedModel) -> model_pb2.ModelManifest:
    """What the registry is told of a model."""
    cutoff: Timestamp = from_us(model.training_cutoff_us)
    return model_pb2.ModelManifest(
        name=model.name,
        strategy=STRATEGY,
        feature_set=FEATURE_SET,
        feature_names=FEATURE_NAMES,
        prediction_unit="fraction",
        signal_threshold=model.signal_threshold,
        framework=FRAMEWORK,
        training_data_sha256=model.training_data_sha256,
        training_cutoff=cutoff,
        seed=SEED,
        trial_count=TRIAL_COUNT,
        metrics=model.metrics,
    )


def _messages(model: TrainedModel) -> Iterator[mlops_service_pb2.RegisterModelRequest]:
    header = mlops_service_pb2.RegisterModelHeader(
        manifest=manifest(model), onnx_sha256=hashlib.sha256(model.onnx).hexdigest()
    )
    yield mlops_service_pb2.RegisterModelRequest(header=header)
    for start in range(0, len(model.onnx), _CHUNK_BYTES):
        yield mlops_service_pb2.RegisterModelRequest(chunk=model.onnx[start : start + _CHUNK_BYTES])


class Operator:
    """A client of MlopsService for the one strategy of this example."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._mlops = mlops_service_pb2_grpc.MlopsServiceStub(channel)

    async def register(self, model: TrainedModel) -> str:
        """Store a model; returns its version."""
        answer = await self._mlops.RegisterModel(_messages(model), timeout=_DEADLINE_S)
        version: str = answer.model.version
        return version

    async def promote(self, version: str, reason: str) -> float:
        """Make a version champion; returns the milliseconds until all replicas served it."""
        request = mlops_service_pb2.PromoteRequest(strategy=STRATEGY, version=version, reason=reason)
        answer = await self._mlops.Promote(request, timeout=_DEADLINE_S)
        _require_all(answer.replicas, answer.all_swapped)
        return float(answer.elapsed_ms)

    async def roll_back(self, reason: str) -> float:
        """Bring the previous champion back; returns the milliseconds until all replicas served it."""
        request = mlops_service_pb2.RollbackRequest(strategy=STRATEGY, reason=reason)
        answer = await self._mlops.Rollback(request, timeout=_DEADLINE_S)
        _require_all(answer.replicas, answer.all_swapped)
        return float(answer.elapsed_ms)


def _require_all(replicas: object, all_swapped: bool) -> None:
    if not all_swapped:
        raise RuntimeError(f"some replicas do not serve the new generation: {replicas}")
