"""Wires mlops_svc: what it stands on, what it serves, and the order in which it ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from redis.asyncio import Redis

from mlops_svc.registration import Header, Registrar
from mlops_svc.rollout import Rollout
from mlops_svc.service import SERVICE_NAME, MlopsServicer
from mlops_svc.settings import MlopsSettings
from modelstore import requests
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import DeploymentStore
from modelstore.manifest import to_json
from modelstore.replicas import ReplicaBoard
from quantmesh.mlops.v1 import mlops_service_pb2_grpc
from runtime.errors import UnavailableError
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.redis_client import connect, wait_for_redis
from streams import load_catalog, raise_fences

log = structlog.get_logger()


class Mlops:
    """The service, up."""

    def __init__(self, server: MeshServer, servicer: MlopsServicer, rollout: Rollout, redis: Redis) -> None:
        self._server = server
        self._servicer = servicer
        self._rollout = rollout
        self._redis = redis
        self._fences = asyncio.create_task(rollout.keep_fences(), name="fences")
        self._fences.add_done_callback(_end_on_failure)

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
        self._fences.cancel()
        with suppress(asyncio.CancelledError):
            await self._fences
        await self._redis.aclose()


async def build(settings: MlopsSettings) -> Mlops:
    """Start the service, once Redis answers.

    Raises UnavailableError (REDIS_NOT_CONFIGURED, REDIS_UNAVAILABLE), PortInUseError.
    """
    if settings.redis_url is None:
        raise UnavailableError(
            "mlops_svc needs Redis: set QUANTMESH_REDIS_URL, or start the mesh with `quantmesh up`",
            reason="REDIS_NOT_CONFIGURED",
        )
    redis = connect(settings.redis_url)
    try:
        await wait_for_redis(redis, settings.redis_url, settings.redis_wait_s)
        catalog = load_catalog(settings.partitions)

        async def fence(strategy: str, generation: int) -> None:
            await raise_fences(redis, catalog, strategy, generation)

        async def claim(request_id: str, header: Header) -> None:
            content = ("register", to_json(header.manifest).decode(), header.onnx_sha256)
            await requests.claim(redis, request_id, *content)

        artifacts = ArtifactStore(settings.home / "models")
        deployments = DeploymentStore(redis)
        rollout = Rollout(deployments, artifacts, ReplicaBoard(redis), fence)
        servicer = MlopsServicer(
            Registrar(artifacts, claim, settings.max_model_bytes), rollout, deployments, settings.swap_wait_s
        )
        server = MeshServer(ServerConfig.of(settings, settings.mlops_port, "QUANTMESH_MLOPS_PORT"))
        mlops_service_pb2_grpc.add_MlopsServiceServicer_to_server(servicer, server.server)
        await server.start([SERVICE_NAME])
    except BaseException:
        await redis.aclose()
        raise
    return Mlops(server, servicer, rollout, redis)


def _end_on_failure(task: asyncio.Task[None]) -> None:
    """A service whose fences are no longer kept would only look alive: end the process, to be started again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the keeper of the fences failed: ending", exc_info=error)
        raise SystemExit(1)  # out of a callback it ends the event loop
