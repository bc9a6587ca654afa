"""Wires an inference replica: what it reads, what it serves, and the order in which it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import structlog

from inference import grpc_service_pb2_grpc
from inference_svc import metrics
from inference_svc.admission import Admission
from inference_svc.batcher import Batcher
from inference_svc.follower import Follower
from inference_svc.hot_methods import hot_methods
from inference_svc.loader import Loader
from inference_svc.oip import service as open_inference
from inference_svc.oip.calls import Calls
from inference_svc.oip.graph_runs import GraphRuns
from inference_svc.oip.plan import Plans
from inference_svc.predict import Predictor
from inference_svc.process import PORT
from inference_svc.registry import Registry
from inference_svc.scorer import STREAM, Scorer
from inference_svc.service import SERVICE_NAME, InferenceServicer
from inference_svc.settings import InferenceSettings
from inference_svc.shadow.replica import Shadow
from inference_svc.taps import Taps
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import DeploymentStore
from modelstore.replicas import ReplicaBoard
from quantmesh.inference.v1 import inference_service_pb2_grpc
from runtime.envoy.hot_app import HotMethod
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.process import required_redis_url, vital
from runtime.redis_client import Client, connect, wait_for_redis
from streams import load_catalog
from streams.operations.lag import LagMonitor

log = structlog.get_logger()


class Inference:
    """A replica that is up."""

    def __init__(
        self,
        server: MeshServer,
        servicer: InferenceServicer,
        open_servicer: open_inference.OpenInferenceServicer,
        follower: Follower,
        scorer: Scorer,
        lag: LagMonitor,
        shadow: Shadow,
        batcher: Batcher,
        redis: Client,
        max_message_bytes: int,
    ) -> None:
        self._server = server
        self._servicer = servicer
        self._open_servicer = open_servicer
        self._follower = follower
        self._scorer = scorer
        self._lag = lag
        self._shadow = shadow
        self._batcher = batcher
        self._redis = redis
        self._max_message_bytes = max_message_bytes
        self._tasks = [
            vital("follower", follower.run()),
            vital("scorer", scorer.run()),
            vital("lag monitor", lag.run()),
        ]
        self._shadowing = vital("keeper of the shadow process", shadow.run())

    @property
    def port(self) -> int:
        """Port of the gRPC server."""
        return self._server.port

    @property
    def address(self) -> str:
        """`host:port` that clients on this machine dial."""
        return self._server.address

    @property
    def hot_methods(self) -> Sequence[HotMethod]:
        """Calls that Envoy may answer, with Python within it."""
        return hot_methods(self._servicer, self._open_servicer, self._max_message_bytes)

    async def not_serving(self) -> None:
        """Tell every health watcher that this server is going away."""
        await self._server.not_serving()

    async def stop(self) -> None:
        """NOT_SERVING, stop reading, drain, end the shadow process, close Redis."""
        await self._server.not_serving()
        self._scorer.stop()
        self._lag.stop()
        self._follower.stop()
        await asyncio.gather(*self._tasks)
        await self._server.drain()
        self._shadow.stop()
        await self._shadowing
        self._batcher.close()
        await self._redis.aclose()


async def build(settings: InferenceSettings, behind: Path | None = None) -> Inference:
    """Start a replica. It listens once it has loaded what is deployed (which may be nothing, or may not load): to be
    reachable is to be ready. From then on it serves with or without Redis. `behind` is the Unix socket of its gRPC
    server when Envoy listens on the port in front of it, and answers `hot_methods` itself.

    Raises UnavailableError (REDIS_NOT_CONFIGURED, REDIS_UNAVAILABLE), PortInUseError.
    """
    redis_url = required_redis_url(settings, "inference_svc")
    metrics.TARGET_SECONDS.set(settings.p99_ms_target / 1000)
    redis = connect(redis_url)
    try:
        await wait_for_redis(redis, redis_url, settings.redis_wait_s)
        registry = Registry(settings.default_strategy)
        taps = Taps()
        shadow = Shadow(settings, registry, taps)
        follower = Follower(
            DeploymentStore(redis),
            ReplicaBoard(redis),
            Loader(ArtifactStore(settings.home / "models"), settings),
            registry,
            replica_id(settings.inference_port),
            shadow,
        )
        await follower.start()
        admission = Admission(settings.p99_ms_target / 1000, settings.queue_rows)
        batcher = Batcher(
            admission,
            most_rows=settings.batch_size,
            threads=settings.threads,
            deterministic=settings.deterministic_rpc,
            taps=taps,
        )
        server = MeshServer(ServerConfig.of(settings, settings.inference_port, PORT, behind))
        predictor = Predictor(registry, batcher, settings.max_batch_rows, shadow.asks)
        servicer = InferenceServicer(predictor, registry, settings.p99_ms_target)
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server.server)
        runs = GraphRuns(admission, threads=settings.threads, deterministic=settings.deterministic_rpc)
        open_servicer = open_inference.OpenInferenceServicer(
            Calls(predictor, Plans(registry), runs, taps), registry, settings, lambda: server.serving
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(open_servicer, server.server)
        await server.start([SERVICE_NAME, open_inference.SERVICE_NAME])
        await follower.listening(server.address)
    except BaseException:
        await redis.aclose()
        raise
    catalog = load_catalog(settings.partitions)
    scorer = Scorer(
        redis, catalog, registry, follower, settings.batch_size, deterministic=settings.deterministic, taps=taps
    )
    lag = LagMonitor(redis, catalog, [(STREAM, catalog.stream(STREAM).group)])
    return Inference(
        server, servicer, open_servicer, follower, scorer, lag, shadow, batcher, redis, settings.max_message_bytes
    )


def replica_id(port: int) -> str:
    """Identity of the replica that is to listen on a port: a restarted process takes its own old place on the board.

    One that takes any free port (0) does not know it yet, and has an identity of its own.
    """
    return f"{socket.gethostname()}:{port or uuid4().hex[:12]}"
