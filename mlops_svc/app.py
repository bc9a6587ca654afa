"""Wires mlops_svc: what it stands on, what it serves, and the order in which it ends."""

from __future__ import annotations

from mlops_svc.fences import Fences
from mlops_svc.registration import Header, Registrar
from mlops_svc.rollout import Rollout
from mlops_svc.service import SERVICE_NAME, MlopsServicer
from mlops_svc.settings import MlopsSettings
from modelstore import requests
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import DeploymentStore
from modelstore.layouts import FeatureLayouts
from modelstore.manifest import to_json
from modelstore.replicas import ReplicaBoard
from quantmesh.mlops.v1 import mlops_service_pb2_grpc
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.process import ended, required_redis_url, vital
from runtime.redis_client import Client, connect, wait_for_redis
from streams import load_catalog


class Mlops:
    """The service, up."""

    def __init__(self, server: MeshServer, servicer: MlopsServicer, rollout: Rollout, redis: Client) -> None:
        self._server = server
        self._servicer = servicer
        self._rollout = rollout
        self._redis = redis
        self._fences = vital("keeper of the fences", rollout.keep_fences())

    @property
    def port(self) -> int:
        """Port of the gRPC server."""
        return self._server.port

    @property
    def address(self) -> str:
        """`host:port` that clients on this machine dial."""
        return self._server.address

    async def stop(self) -> None:
        """NOT_SERVING, end the watches, drain, finish changes under way, close Redis."""
        await self._server.not_serving()
        self._servicer.stop()
        await self._server.drain()
        await self._rollout.settle()
        await ended(self._fences)
        await self._redis.aclose()


async def build(settings: MlopsSettings) -> Mlops:
    """Start the service, once Redis answers.

    Raises UnavailableError (REDIS_NOT_CONFIGURED, REDIS_UNAVAILABLE), PortInUseError.
    """
    redis_url = required_redis_url(settings, "mlops_svc")
    redis = connect(redis_url)
    try:
        await wait_for_redis(redis, redis_url, settings.redis_wait_s)
        catalog = load_catalog(settings.partitions)

        async def claim(request_id: str, header: Header) -> None:
            content = ("register", to_json(header.manifest).decode(), header.onnx_sha256)
            await requests.claim(redis, request_id, *content)

        artifacts = ArtifactStore(settings.home / "models")
        deployments = DeploymentStore(redis)
        rollout = Rollout(deployments, artifacts, ReplicaBoard(redis), Fences(redis, catalog), FeatureLayouts(redis))
        registrar = Registrar(
            artifacts,
            claim,
            max_model_bytes=settings.max_model_bytes,
            max_registering_bytes=settings.max_registering_bytes,
        )
        servicer = MlopsServicer(registrar, rollout, deployments, settings.swap_wait_s)
        server = MeshServer(ServerConfig.of(settings, settings.mlops_port, "QUANTMESH_MLOPS_PORT"))
        mlops_service_pb2_grpc.add_MlopsServiceServicer_to_server(servicer, server.server)
        await server.start([SERVICE_NAME])
    except BaseException:
        await redis.aclose()
        raise
    return Mlops(server, servicer, rollout, redis)
