"""The wiring of feature_svc: Redis, the two pipelines, the gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Protocol

from feature_svc.feature_sets import load_feature_sets
from feature_svc.market_pipeline import TRADES, MarketPipeline
from feature_svc.online import OnlineStore
from feature_svc.pit_pipeline import RAW, PitPipeline
from feature_svc.publisher import Publisher
from feature_svc.service import SERVICE_NAME, FeatureServicer
from feature_svc.settings import FeatureSettings
from modelstore.layouts import FeatureLayouts
from quantmesh.feature.v1 import feature_service_pb2_grpc
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.process import required_redis_url, vital
from runtime.redis_client import Client, connect, wait_for_redis
from streams import Producer, load_catalog
from streams.operations.lag import LagMonitor


class _Pipeline(Protocol):
    def run(self) -> Coroutine[None, None, None]: ...

    def stop(self) -> None: ...


class FeatureService:
    """A feature service that is up."""

    def __init__(self, redis: Client, server: MeshServer, pipelines: Sequence[_Pipeline]) -> None:
        self._redis = redis
        self._server = server
        self._pipelines = pipelines
        self._tasks = [vital(type(pipeline).__name__, pipeline.run()) for pipeline in pipelines]

    @property
    def port(self) -> int:
        """Port of the gRPC server."""
        return self._server.port

    @property
    def address(self) -> str:
        """`host:port` that clients on this machine dial."""
        return self._server.address

    async def stop(self) -> None:
        """NOT_SERVING, stop reading, drain, close Redis."""
        await self._server.not_serving()
        for pipeline in self._pipelines:
            pipeline.stop()
        await asyncio.gather(*self._tasks)
        await self._server.drain()
        await self._redis.aclose()


async def build(settings: FeatureSettings) -> FeatureService:
    """Wait for Redis, start the pipelines and the server.

    Raises UnavailableError (REDIS_NOT_CONFIGURED, REDIS_UNAVAILABLE), NotFoundError for an unknown default feature
    set, PortInUseError.
    """
    redis_url = required_redis_url(settings, "feature_svc")
    sets = load_feature_sets()
    default_set = sets.get(settings.default_feature_set)
    catalog = load_catalog(settings.partitions)
    redis = connect(redis_url)
    try:
        await wait_for_redis(redis, redis_url, settings.redis_wait_s)
        for feature_set in sets:
            await FeatureLayouts(redis).publish(feature_set.name, feature_set.names)
        producer = Producer(redis, catalog)
        servicer = FeatureServicer(
            Publisher(producer, sets, skew_us=settings.skew_us),
            OnlineStore(redis, catalog, sets, skew_us=settings.skew_us),
            sets,
            default_set.name,
        )
        server = MeshServer(ServerConfig.of(settings, settings.feature_port, "QUANTMESH_FEATURE_PORT"))
        feature_service_pb2_grpc.add_FeatureServiceServicer_to_server(servicer, server.server)
        await server.start([SERVICE_NAME])
    except BaseException:
        await redis.aclose()
        raise
    return FeatureService(
        redis,
        server,
        [
            MarketPipeline(redis, catalog, producer, default_set, skew_us=settings.skew_us),
            PitPipeline(redis, catalog, sets, skew_us=settings.skew_us),
            LagMonitor(redis, catalog, [(name, catalog.stream(name).group) for name in (TRADES, RAW)]),
        ],
    )
