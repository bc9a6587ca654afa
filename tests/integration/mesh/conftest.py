"""One mesh for the tests of this folder: models deployed, history replayed, and a collector that gets its traces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from examples.us_equities import job
from runtime import telemetry
from runtime.redis_client import connect
from runtime.settings import MeshSettings
from streams import load_catalog
from tests.mesh import RunningMesh, running_mesh
from tests.otlp import Collector


@pytest.fixture(scope="session")
def collector() -> Iterator[tuple[Collector, str]]:
    """The collector and its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, str]) -> Iterator[RunningMesh]:
    """The mesh, up and empty."""
    home = tmp_path_factory.mktemp("mesh")
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[1], "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with running_mesh(home, **traces) as up:
        yield up


@pytest.fixture(scope="session")
def replayed(mesh: RunningMesh) -> job.Report:
    """The demo's job on that mesh: history replayed, a second model promoted and rolled back."""

    telemetry.configure("replay")  # ticks start traces

    async def run() -> job.Report:
        plan = job.Plan.of(sessions=12)
        redis = connect(mesh.redis_url)
        try:
            catalog = load_catalog(MeshSettings().partitions)
            return await job.run(plan, plan.train(), mesh.addresses, redis, catalog, lambda counts: None)
        finally:
            await redis.aclose()

    return asyncio.run(run())
