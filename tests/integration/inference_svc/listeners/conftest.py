"""A model that is deployed, for replicas of one's choice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelstore.deployments import DeploymentStore
from runtime.redis_client import connect
from tests.integration.inference_svc.models import boosted, register
from tests.redis_servers import single


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[str]:
    """URL of a Redis in which a model is deployed."""
    version = register(home, boosted()[1])

    async def deploy(url: str) -> None:
        redis = connect(url)
        await DeploymentStore(redis).promote("momentum", version, expected_generation=None, reason="", request_id="")
        await redis.aclose()

    with single(tmp_path_factory.mktemp("redis")) as running:
        asyncio.run(deploy(running.url))
        yield running.url
