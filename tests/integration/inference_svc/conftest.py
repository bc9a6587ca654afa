"""Fixtures: the deployments in the test's own Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from modelstore.deployments import DeploymentStore


@pytest.fixture
def deployments(redis: Redis, redis_url: str) -> DeploymentStore:
    return DeploymentStore(redis)
