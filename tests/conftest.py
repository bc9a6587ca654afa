"""Fixtures that every kind of test shares: a real Redis, empty for each test.

QUANTMESH_TEST_TOPOLOGY names what it is: `single` (the default), or another of tests/redis_servers.py, on which the
same tests then run unchanged.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import RedisCluster

from runtime.redis_client import Client, connect
from tests.redis_servers import TOPOLOGIES, Running


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Real servers of this worker's own, for the whole run."""
    topology = TOPOLOGIES[os.environ.get("QUANTMESH_TEST_TOPOLOGY", "single")]
    with topology(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis_url(redis_servers: Running) -> str:
    """URL of the worker's Redis, emptied before the test."""
    redis_servers.empty()
    return redis_servers.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Client]:
    """A client of the worker's Redis, which is empty before the test."""
    client = connect(redis_url)
    if isinstance(client, RedisCluster):  # what the tests' own commands mean there: redis-py asks one node only
        client.command_flags |= dict.fromkeys(("CONFIG SET", "CLIENT PAUSE", "KEYS"), RedisCluster.PRIMARIES)
        client.result_callbacks["KEYS"] = lambda _command, answers, **_: [
            key for keys in answers.values() for key in keys
        ]
    yield client
    await client.aclose()
