"""The rest of MlopsService: lists, watches, a stop that holds nobody up, and Redis away."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from mlops_svc.app import Mlops, build
from mlops_svc.settings import MlopsSettings
from modelstore.deployments import DeploymentStore
from quantmesh.mlops.v1 import mlops_service_pb2 as messages
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from runtime.embedded_redis import EmbeddedRedis
from runtime.errors import UnavailableError
from runtime.grpc_client import channel
from tests.integration.mlops_svc.calls import UNKNOWN, failed, fields, some_version
from tests.integration.mlops_svc.models import STRATEGY
from tests.waiting import until

if TYPE_CHECKING:  # the stubs name it, the generated code does not have it
    from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceAsyncStub


async def deploy(redis: Redis, strategy: str, version: str = UNKNOWN) -> None:
    await DeploymentStore(redis).promote(strategy, version, expected_generation=None, reason="", request_id="")


async def test_get_names_what_is_wrong(stub: MlopsServiceAsyncStub) -> None:
    failure = await failed(stub.GetDeployment(messages.GetDeploymentRequest(strategy="nobody"), timeout=5))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_STRATEGY")
    failure = await failed(stub.GetDeployment(messages.GetDeploymentRequest(), timeout=5))
    assert (failure.code, fields(failure)) == (grpc.StatusCode.INVALID_ARGUMENT, ["strategy"])


async def test_list_goes_through_all_pages(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    for strategy in ("gamma", "alpha", "beta"):
        await deploy(redis, strategy)
    first = await stub.ListDeployments(messages.ListDeploymentsRequest(page_size=2), timeout=5)
    assert [deployment.strategy for deployment in first.deployments] == ["alpha", "beta"]
    request = messages.ListDeploymentsRequest(page_size=2, page_token=first.next_page_token)
    second = await stub.ListDeployments(request, timeout=5)
    assert [deployment.strategy for deployment in second.deployments] == ["gamma"]
    assert second.next_page_token == ""
    failure = await failed(stub.ListDeployments(messages.ListDeploymentsRequest(page_size=1001), timeout=5))
    assert fields(failure) == ["page_size"]


async def test_watch_sends_the_present_ones_then_changes(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    await deploy(redis, "alpha")
    await deploy(redis, "beta")
    watching = stub.WatchDeployments(messages.WatchDeploymentsRequest(), timeout=20)
    seen = [(await watching.read()).deployment.strategy for _ in range(2)]
    assert seen == ["alpha", "beta"]
    await deploy(redis, "alpha", "1" * 64)
    changed = (await watching.read()).deployment
    assert (changed.strategy, changed.champion_version, changed.generation) == ("alpha", "1" * 64, 2)
    watching.cancel()


async def test_watch_of_one_strategy_sends_no_other(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    await deploy(redis, "alpha")
    await deploy(redis, "beta")
    watching = stub.WatchDeployments(messages.WatchDeploymentsRequest(strategy="beta"), timeout=20)
    assert (await watching.read()).deployment.strategy == "beta"
    await deploy(redis, "alpha", "1" * 64)
    await deploy(redis, "beta", "1" * 64)
    changed = (await watching.read()).deployment
    assert (changed.strategy, changed.generation) == ("beta", 2)
    watching.cancel()
    bad = stub.WatchDeployments(messages.WatchDeploymentsRequest(strategy="B!"), timeout=20)
    assert fields(await failed(bad.read())) == ["strategy"]


async def test_watches_that_end_leave_no_connection_behind(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    await deploy(redis, "alpha")

    async def subscriptions() -> int:
        return len(await redis.client_list(_type="pubsub"))

    before = await subscriptions()
    watches = [stub.WatchDeployments(messages.WatchDeploymentsRequest(), timeout=20) for _ in range(5)]
    for watching in watches:
        await watching.read()
    assert await subscriptions() >= before + 5 - 1  # the keeper of the fences may have come in between
    for watching in watches:
        watching.cancel()

    async def only_the_fences() -> bool:
        return await subscriptions() == 1

    await until(only_the_fences)


async def test_a_stop_ends_the_watches_at_once(settings: MlopsSettings, redis: Redis) -> None:
    running = await build(settings)
    await deploy(redis, "alpha")
    async with channel(running.address) as opened:
        stub: MlopsServiceAsyncStub = MlopsServiceStub(opened)
        watching = stub.WatchDeployments(messages.WatchDeploymentsRequest(), timeout=60)
        await watching.read()
        started = time.monotonic()
        await running.stop()
        assert time.monotonic() - started < settings.drain_grace_s / 2
        failure = await failed(watching.read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert failure.retry_after_s is not None


async def test_health_and_reflection_name_the_service(service: Mlops) -> None:
    async with channel(service.address) as opened:
        health = health_pb2_grpc.HealthStub(opened)
        request = health_pb2.HealthCheckRequest(service="quantmesh.mlops.v1.MlopsService")
        answer = await health.Check(request, timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_redis_away_is_unavailable_and_the_service_goes_on_afterwards(
    settings: MlopsSettings, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        running = await build(settings.model_copy(update={"redis_url": server.url}))
        try:
            async with channel(running.address) as opened:
                stub: MlopsServiceAsyncStub = MlopsServiceStub(opened)
                one, two = await some_version(stub, 1), await some_version(stub, 2)
                request = messages.PromoteRequest(strategy=STRATEGY, version=one, request_id="r1")
                first = await stub.Promote(request, timeout=20)
                watching = stub.WatchDeployments(messages.WatchDeploymentsRequest(), timeout=60)
                assert (await watching.read()).deployment == first.deployment

                await asyncio.to_thread(server.stop)
                calls = [
                    stub.Promote(messages.PromoteRequest(strategy=STRATEGY, version=two), timeout=20),
                    stub.Rollback(messages.RollbackRequest(strategy=STRATEGY), timeout=20),
                    stub.GetDeployment(messages.GetDeploymentRequest(strategy=STRATEGY), timeout=20),
                    stub.ListDeployments(messages.ListDeploymentsRequest(), timeout=20),
                ]
                for call in calls:
                    failure = await failed(call)
                    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "REDIS_UNAVAILABLE")
                    assert failure.retry_after_s is not None
                three = await some_version(stub, 3)  # needs no Redis

                await asyncio.to_thread(server.start)
                second = await stub.Promote(messages.PromoteRequest(strategy=STRATEGY, version=three), timeout=20)
                assert second.deployment.previous_version == one
                assert (await watching.read()).deployment == second.deployment
                assert (await stub.Promote(request, timeout=20)).deployment == first.deployment
                watching.cancel()
        finally:
            await running.stop()


async def test_without_a_redis_url_the_start_says_what_to_set(settings: MlopsSettings) -> None:
    with pytest.raises(UnavailableError) as caught:
        await build(settings.model_copy(update={"redis_url": None}))
    assert caught.value.reason == "REDIS_NOT_CONFIGURED"
    assert "QUANTMESH_REDIS_URL" in caught.value.message


async def test_a_restarted_service_has_the_models_and_deployments(settings: MlopsSettings) -> None:
    running = await build(settings)
    async with channel(running.address) as opened:
        stub: MlopsServiceAsyncStub = MlopsServiceStub(opened)
        one, two = await some_version(stub, 1), await some_version(stub, 2)
        await stub.Promote(messages.PromoteRequest(strategy=STRATEGY, version=one), timeout=20)
    await running.stop()
    running = await build(settings)
    try:
        async with channel(running.address) as opened:
            stub = MlopsServiceStub(opened)
            response = await stub.Promote(messages.PromoteRequest(strategy=STRATEGY, version=two), timeout=20)
            assert (response.deployment.previous_version, response.deployment.generation) == (one, 2)
    finally:
        await running.stop()
