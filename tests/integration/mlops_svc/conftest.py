"""Fixtures: the service on a free port, on the test's own Redis and folder, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_svc.app import Mlops, build
from mlops_svc.settings import MlopsSettings
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from runtime.grpc_client import channel
from runtime.redis_client import Client, connect

if TYPE_CHECKING:  # the stubs name it, the generated code does not have it
    from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceAsyncStub

PARTITIONS = 3


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> MlopsSettings:
    return MlopsSettings(
        home=tmp_path,
        redis_url=redis_url,
        partitions=PARTITIONS,
        mlops_port=0,
        max_model_bytes=1_500_000,
        swap_wait_s=0.3,
        drain_grace_s=5.0,
    )


@pytest.fixture
async def service(settings: MlopsSettings) -> AsyncIterator[Mlops]:
    running = await build(settings)
    yield running
    await running.stop()


@pytest.fixture
async def stub(service: Mlops) -> AsyncIterator[MlopsServiceAsyncStub]:
    async with channel(service.address) as opened:
        yield MlopsServiceStub(opened)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Client]:
    client = connect(redis_url)
    yield client
    await client.aclose()
