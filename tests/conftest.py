"""Fixtures that every kind of test shares: a real Redis server, empty for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from runtime.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server of this worker's own, for the whole run."""
    directory: Path = tmp_path_factory.mktemp("redis")
    with EmbeddedRedis(directory) as server:
        yield server.url


@pytest.fixture
async def redis(redis_server: str) -> AsyncIterator[Redis]:
    """A client of the worker's server, which is empty before the test."""
    async with Redis.from_url(redis_server) as client:
        await client.flushall()
        yield client


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of the worker's server, emptied before the test."""
    with SyncRedis.from_url(redis_server) as client:
        client.flushall()
    return redis_server
