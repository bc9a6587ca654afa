"""quantmesh under test: a mesh of real processes for each listener of the replica, with the model deployed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np
import onnx

from bench.inference.targets import Check, GrpcTarget, RestTarget, Role
from bench.inference.workload import FEATURES, Predictions, Rows, Workload
from bench.load.build import UnavailableError
from inference_svc.settings import InferenceSettings
from quantmesh.inference.v1 import inference_service_pb2
from quantmesh.mlops.v1 import mlops_service_pb2, mlops_service_pb2_grpc, model_pb2
from runtime.errors import QuantmeshError
from runtime.settings import MeshSettings
from runtime.supervisor import Mesh

pb: Any = inference_service_pb2
"""Of any age: the contract may or may not have packed rows and streams."""

SERVICE = "/quantmesh.inference.v1.InferenceService/"
PREDICT = f"{SERVICE}Predict"

_STRATEGY = "bench"
_CHUNK_BYTES = 1 << 20
_DEADLINE_S = 30.0
_READY_S, _LOOK_EVERY_S = 60.0, 0.1
_LISTENER = "INFER_LISTENER"


def listeners() -> list[str]:
    """The replica's listeners, best first; one without a name where there is nothing to choose."""
    for info in InferenceSettings.model_fields.values():
        if info.validation_alias == _LISTENER:
            return ["envoy", "grpcio"]
    return [""]


def single_requests(workload: Workload) -> list[bytes]:
    """Predict, one row each."""
    return [pb.PredictRequest(features=row.tolist()).SerializeToString() for row in workload.rows]


def batch_requests(workload: Workload) -> list[bytes]:
    """BatchPredict, all rows of a batch each."""
    return [pb.BatchPredictRequest(batch=map(_row, batch)).SerializeToString() for batch in workload.batches]


def _row(row: Rows) -> pb.FeatureRow:
    return pb.FeatureRow(features=row.tolist())


def _packed(rows: Rows) -> Any:
    return pb.PackedRows(type=pb.FLOAT_TYPE_FLOAT32, rows=len(rows), values=rows.astype("<f4").tobytes())


@dataclass(slots=True)
class Replica:
    """One mesh with one replica."""

    name: str
    listener: str
    mesh: Mesh
    channel: grpc.aio.Channel
    versions: tuple[str, str]
    """Two versions that predict the same, the first of them deployed at the start."""

    swaps: int = 0
    """How often `swap` was called."""

    @property
    def pid(self) -> int:
        """Of the replica."""
        return self.mesh.pid("inference_svc") or 0

    async def promote(self, version: str) -> float:
        """Make a version champion; returns the milliseconds until the replica served it."""
        request = mlops_service_pb2.PromoteRequest(strategy=_STRATEGY, version=version, reason="bench")
        return self._swapped(await self._mlops.Promote(request, timeout=_DEADLINE_S))

    async def roll_back(self) -> float:
        """Bring the previous champion back; returns the milliseconds until the replica served it."""
        request = mlops_service_pb2.RollbackRequest(strategy=_STRATEGY, reason="bench")
        return self._swapped(await self._mlops.Rollback(request, timeout=_DEADLINE_S))

    async def swap(self) -> float:
        """A promotion of the second version, then a rollback, and so on."""
        self.swaps += 1
        return await (self.promote(self.versions[1]) if self.swaps % 2 else self.roll_back())

    async def register(self, model: bytes) -> str:
        """Store a model that takes the workload's rows; returns its version."""
        return await _register(self._mlops, model)

    async def start_shadow(self, version: str) -> None:
        """Make a version challenger; returns when the replica scores with it."""
        request = mlops_service_pb2.StartShadowRequest(strategy=_STRATEGY, version=version, reason="bench")
        await self._mlops.StartShadow(request, timeout=_DEADLINE_S)
        until = time.monotonic() + _READY_S
        while True:  # its process yields to all others, so a busy machine may keep it for longer than the call waits
            standing = await self._standing()
            if standing.replicas and all(each.shadow.ready for each in standing.replicas):
                return
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} does not score with the challenger: {standing.replicas}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def stop_shadow(self) -> None:
        """Take the challenger away."""
        request = mlops_service_pb2.StopShadowRequest(strategy=_STRATEGY, reason="bench")
        self._swapped(await self._mlops.StopShadow(request, timeout=_DEADLINE_S))

    async def shadow_rows(self) -> int:
        """Rows that challengers have scored so far."""
        return sum(each.shadow.rows_scored for each in (await self._standing()).replicas)

    async def _standing(self) -> Any:
        request = mlops_service_pb2.GetDeploymentRequest(strategy=_STRATEGY)
        return await self._mlops.GetDeployment(request, timeout=_DEADLINE_S)

    @property
    def _mlops(self) -> Any:
        return mlops_service_pb2_grpc.MlopsServiceStub(self.channel)

    def _swapped(self, answer: Any) -> float:
        if not (answer.all_swapped and answer.replicas):
            raise RuntimeError(f"{self.name} does not serve the new generation: {answer.replicas}")
        return float(answer.elapsed_ms)

    def predict(self, requests: Sequence[bytes], workload: Workload) -> GrpcTarget:
        """Predict, one row a call."""
        # The answer's first field is the prediction: a tag, and the double.
        check = Check("double@1", workload.answers.tolist())
        return self._target("Predict", requests, workload.answers[:, None], pb.PredictResponse, check)

    def batch(self, requests: Sequence[bytes], workload: Workload) -> GrpcTarget:
        """BatchPredict of numbers."""
        # The answer's first field is the predictions: a tag, two bytes of length, the doubles.
        check = Check("double@3", workload.batch_answers[:, 0].tolist())
        return self._target("BatchPredict", requests, workload.batch_answers, pb.BatchPredictResponse, check)

    def packed_batch(self, workload: Workload) -> GrpcTarget:
        """BatchPredict of rows as bytes. Raises UnavailableError where the contract has none."""
        _require("PackedRows")
        requests = [pb.BatchPredictRequest(packed=_packed(rows)).SerializeToString() for rows in workload.batches]
        return self.batch(requests, workload)

    def stream(self, workload: Workload, batches: bool) -> GrpcTarget:
        """StreamPredict, one row or one packed batch a message. Raises UnavailableError where the contract has none."""
        _require("StreamPredictRequest")
        kind, answer = pb.StreamPredictRequest, pb.StreamPredictResponse
        if batches:
            requests = [kind(packed=_packed(rows)).SerializeToString() for rows in workload.batches]
            check = Check("double@3", workload.batch_answers[:, 0].tolist())
            return self._target("StreamPredict", requests, workload.batch_answers, answer, check, streams=True)
        requests = [kind(features=row.tolist()).SerializeToString() for row in workload.rows]
        check = Check("double@2", workload.answers.tolist())  # a tag, one byte of length
        return self._target("StreamPredict", requests, workload.answers[:, None], answer, check, streams=True)

    def _target(
        self,
        method: str,
        requests: Sequence[bytes],
        answers: Predictions,
        answer: Any,
        check: Check,
        streams: bool = False,
    ) -> GrpcTarget:
        """`answers` has one row for each request."""
        field = "prediction" if method == "Predict" else "predictions"

        def read(said: bytes) -> Predictions:
            return np.atleast_1d(getattr(answer.FromString(said), field))

        address = self.mesh.addresses.inference
        right = list(answers)
        return GrpcTarget(self.name, Role.OURS, address, SERVICE + method, requests, right, read, check, streams)

    async def rest(self, workload: Workload) -> list[RestTarget]:
        """The gateway's /inference/predict, and the replica's own where it has one."""
        bodies: list[dict[str, Any]] = [{"features": row.tolist()} for row in workload.rows]
        places = [("gateway", self.mesh.addresses.gateway), ("replica", f"http://{self.mesh.addresses.inference}")]
        found = []
        for where, base in places:
            url = f"{base}/inference/predict"
            if where == "gateway" or await _answers(url, bodies[0]):
                name, answers = f"{self.name}: {where}", workload.answers.tolist()
                found.append(RestTarget(name, Role.OURS, url, bodies, answers, lambda said: float(said["prediction"])))
        return found


async def start(stack: AsyncExitStack, home: Path, listener: str, workload: Workload, call_rows: int = 0) -> Replica:
    """Start a mesh, register both versions and deploy the first; all ends with the stack. Raises UnavailableError.

    `call_rows` is INFER_BATCH_SIZE, where it is not to be the default.
    """
    name = f"quantmesh ({listener})" if listener else "quantmesh"
    ports: dict[str, Any] = {field: 0 for field in MeshSettings.model_fields if field.endswith("_port")}
    variables = {_LISTENER: listener} if listener else {}
    if call_rows:
        name = f"{name}, calls of {call_rows}"
        variables["INFER_BATCH_SIZE"] = str(call_rows)
    mesh = Mesh(MeshSettings(home=home, redis_url=None, **ports), environment=variables)
    try:
        await stack.enter_async_context(mesh)
        await mesh.ready()
    except QuantmeshError as error:
        raise UnavailableError(f"{name} does not start: {error.message}") from error
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(mesh.addresses.mlops))
    stub: Any = mlops_service_pb2_grpc.MlopsServiceStub(channel)
    versions = [await _register(stub, model) for model in _twins(workload.onnx)]
    replica = Replica(name, listener, mesh, channel, (versions[0], versions[1]))
    await replica.promote(versions[0])
    return replica


def _twins(path: Path) -> Iterator[bytes]:
    """Two artifacts of one model: they differ in a comment."""
    model = onnx.load(str(path))
    for comment in ("a", "b"):
        model.doc_string = comment
        yield model.SerializeToString()


async def _register(stub: Any, model: bytes) -> str:
    manifest = model_pb2.ModelManifest(
        name="bench",
        strategy=_STRATEGY,
        feature_set="bench",
        feature_names=[f"f{i}" for i in range(FEATURES)],
        prediction_unit="fraction",
        trial_count=1,
    )

    def messages() -> Iterator[Any]:
        header = mlops_service_pb2.RegisterModelHeader(manifest=manifest, onnx_sha256=hashlib.sha256(model).hexdigest())
        yield mlops_service_pb2.RegisterModelRequest(header=header)
        for start in range(0, len(model), _CHUNK_BYTES):
            yield mlops_service_pb2.RegisterModelRequest(chunk=model[start : start + _CHUNK_BYTES])

    answer = await stub.RegisterModel(messages(), timeout=_DEADLINE_S)
    version: str = answer.model.version
    return version


def _require(message: str) -> None:
    if not hasattr(pb, message):
        raise UnavailableError(f"the contract has no {message} yet")


async def _answers(url: str, body: dict[str, Any]) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            return (await client.post(url, json=body)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
