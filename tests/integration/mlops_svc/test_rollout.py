"""Promote and Rollback over gRPC: one winner, fences up before the answer, and replicas named that did not swap."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from mlops_svc.app import Mlops, build
from mlops_svc.fences import Fences
from mlops_svc.rollout import Change, Rollout
from mlops_svc.settings import MlopsSettings
from modelstore import keys as deployment_keys
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import DeploymentStore
from modelstore.layouts import FeatureLayouts
from modelstore.replicas import ReplicaBoard, Served
from quantmesh.mlops.v1 import mlops_service_pb2 as messages
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from runtime.grpc_client import channel
from streams import keys, load_catalog
from tests.integration.mlops_svc.calls import UNKNOWN, failed, fields, some_version
from tests.integration.mlops_svc.conftest import PARTITIONS
from tests.integration.mlops_svc.models import STRATEGY
from tests.waiting import until

if TYPE_CHECKING:  # the stubs name it, the generated code does not have it
    from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceAsyncStub


def promote(
    stub: MlopsServiceAsyncStub, version: str, *, strategy: str = STRATEGY, expected: int | None = None, **more: str
) -> grpc.aio.UnaryUnaryCall[messages.PromoteRequest, messages.PromoteResponse]:
    request = messages.PromoteRequest(strategy=strategy, version=version, expected_generation=expected, **more)
    return stub.Promote(request, timeout=20)


def rollback(
    stub: MlopsServiceAsyncStub, *, strategy: str = STRATEGY, expected: int | None = None, **more: str
) -> grpc.aio.UnaryUnaryCall[messages.RollbackRequest, messages.RollbackResponse]:
    request = messages.RollbackRequest(strategy=strategy, expected_generation=expected, **more)
    return stub.Rollback(request, timeout=20)


async def fences(redis: Redis, strategy: str = STRATEGY) -> list[int]:
    return [int(await redis.get(keys.fence(strategy, partition)) or 0) for partition in range(PARTITIONS)]


async def test_promote_twice_then_roll_back(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    one, two = await some_version(stub, 1), await some_version(stub, 2)
    first = await promote(stub, one, reason="first")
    assert (first.deployment.champion_version, first.deployment.generation) == (one, 1)
    assert first.all_swapped
    assert list(first.replicas) == []
    assert await fences(redis) == [1] * PARTITIONS
    second = await promote(stub, two, expected=1)
    assert (second.deployment.champion_version, second.deployment.previous_version) == (two, one)
    assert await fences(redis) == [2] * PARTITIONS
    back = await rollback(stub, expected=2, reason="bad fills")
    assert (back.deployment.champion_version, back.deployment.previous_version) == (one, two)
    assert (back.deployment.generation, back.deployment.reason) == (3, "bad fills")
    assert back.elapsed_ms > 0
    assert await fences(redis) == [3] * PARTITIONS
    shown = await stub.GetDeployment(messages.GetDeploymentRequest(strategy=STRATEGY), timeout=5)
    assert shown.deployment == back.deployment


async def test_what_cannot_be_promoted(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    version = await some_version(stub, 1)
    failure = await failed(promote(stub, UNKNOWN))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_VERSION")
    failure = await failed(promote(stub, version, strategy="other"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STRATEGY")
    failure = await failed(promote(stub, version, expected=1))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STALE_GENERATION")
    assert await fences(redis) == [0] * PARTITIONS
    await promote(stub, version, expected=0)
    failure = await failed(promote(stub, version))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_CHAMPION")
    assert await fences(redis) == [1] * PARTITIONS


async def test_bad_arguments_are_told_all_at_once(stub: MlopsServiceAsyncStub) -> None:
    failure = await failed(promote(stub, "v1", strategy="Momentum!", reason="x" * 1025, request_id="y" * 129))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(failure) == ["strategy", "reason", "request_id", "version"]
    assert fields(await failed(promote(stub, "", strategy=""))) == ["strategy", "version"]
    assert fields(await failed(rollback(stub, strategy=""))) == ["strategy"]


async def test_a_damaged_artifact_is_not_promoted(
    stub: MlopsServiceAsyncStub, settings: MlopsSettings, redis: Redis
) -> None:
    version = await some_version(stub, 1)
    (settings.home / "models" / version / "model.onnx").write_bytes(b"damaged")
    failure = await failed(promote(stub, version))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ARTIFACT_CORRUPT")
    assert await fences(redis) == [0] * PARTITIONS


async def test_what_cannot_be_rolled_back(stub: MlopsServiceAsyncStub) -> None:
    failure = await failed(rollback(stub))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_STRATEGY")
    await promote(stub, await some_version(stub, 1))
    failure = await failed(rollback(stub))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_PREVIOUS")


async def test_of_two_promotes_of_one_generation_exactly_one_wins(stub: MlopsServiceAsyncStub) -> None:
    versions = [await some_version(stub, number) for number in range(3)]
    await promote(stub, versions[0])

    async def attempt(version: str) -> messages.PromoteResponse:
        return await promote(stub, version, expected=1)

    results = await asyncio.gather(*(attempt(version) for version in versions[1:]), return_exceptions=True)
    won = [result for result in results if isinstance(result, messages.PromoteResponse)]
    assert len(won) == 1
    (lost,) = (result for result in results if isinstance(result, grpc.aio.AioRpcError))
    assert lost.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert won[0].deployment.generation == 2


async def test_a_request_that_comes_again_gets_the_first_answer(stub: MlopsServiceAsyncStub) -> None:
    one, two = await some_version(stub, 1), await some_version(stub, 2)
    first = await promote(stub, one, request_id="r")
    await promote(stub, two)
    assert (await promote(stub, one, request_id="r")).deployment == first.deployment
    failure = await failed(promote(stub, two, request_id="r"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert fields(failure) == ["request_id"]


async def test_the_answer_comes_when_the_replicas_have_swapped(
    stub: MlopsServiceAsyncStub, service: Mlops, redis: Redis
) -> None:
    board, deployments = ReplicaBoard(redis), DeploymentStore(redis)
    version = await some_version(stub, 1)
    await board.report("a", "127.0.0.1:1", {}, {}, 60_000)

    async def replica() -> None:
        async for deployment in deployments.watch():
            await board.report("a", "127.0.0.1:1", {STRATEGY: Served.of(deployment)}, {}, 60_000)
            return

    swapping = asyncio.create_task(replica())
    response = await promote(stub, version)
    await swapping
    assert response.all_swapped
    assert [(r.replica_id, r.address, r.generation) for r in response.replicas] == [("a", "127.0.0.1:1", 1)]


async def test_a_replica_that_did_not_swap_is_named(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    await ReplicaBoard(redis).report("stuck", "127.0.0.1:9", {}, {STRATEGY: "out of memory"}, 60_000)
    response = await promote(stub, await some_version(stub, 1))
    assert not response.all_swapped
    (replica,) = response.replicas
    assert (replica.replica_id, replica.swapped, replica.error) == ("stuck", False, "out of memory")
    assert response.elapsed_ms >= 300  # the wait in the settings
    shown = await stub.GetDeployment(messages.GetDeploymentRequest(strategy=STRATEGY), timeout=5)
    assert list(shown.replicas) == [replica]


async def test_the_wait_ends_before_the_deadline_of_the_caller(settings: MlopsSettings, redis: Redis) -> None:
    running = await build(settings.model_copy(update={"swap_wait_s": 60.0}))
    try:
        async with channel(running.address) as opened:
            stub: MlopsServiceAsyncStub = MlopsServiceStub(opened)
            version = await some_version(stub, 1)
            await ReplicaBoard(redis).report("stuck", "127.0.0.1:9", {}, {}, 60_000)
            started = time.monotonic()
            request = messages.PromoteRequest(strategy=STRATEGY, version=version)
            response = await stub.Promote(request, timeout=2)
            assert not response.all_swapped
            assert 1 < time.monotonic() - started < 2
    finally:
        await running.stop()


@pytest.fixture
async def registered(stub: MlopsServiceAsyncStub) -> str:
    return await some_version(stub, 1)


async def test_a_caller_that_goes_away_does_not_leave_a_fence_behind(
    registered: str, settings: MlopsSettings, redis: Redis
) -> None:
    fencing, go_on = asyncio.Event(), asyncio.Event()

    class SlowFences(Fences):
        async def put_up(self, strategy: str, generation: int) -> None:
            fencing.set()
            await go_on.wait()
            await super().put_up(strategy, generation)

    artifacts = ArtifactStore(settings.home / "models")
    slow = SlowFences(redis, load_catalog(PARTITIONS))
    rollout = Rollout(DeploymentStore(redis), artifacts, ReplicaBoard(redis), slow, FeatureLayouts(redis))
    call = asyncio.create_task(rollout.promote(Change(STRATEGY), registered, 10))
    await asyncio.wait_for(fencing.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go_on.set()
    await rollout.settle()
    assert await fences(redis) == [1] * PARTITIONS


async def test_a_fence_that_was_left_behind_is_mended(service: Mlops, redis: Redis) -> None:
    # Another mlops_svc that dies between its compare-and-set and its fences.
    await DeploymentStore(redis).promote(STRATEGY, UNKNOWN, expected_generation=None, reason="", request_id="")

    async def mended() -> bool:
        return await fences(redis) == [1] * PARTITIONS

    await until(mended)


async def test_fences_left_behind_are_mended_at_start(settings: MlopsSettings, redis: Redis) -> None:
    for strategy in ("alpha", "beta"):
        await DeploymentStore(redis).promote(strategy, UNKNOWN, expected_generation=None, reason="", request_id="")
    running = await build(settings)
    try:

        async def mended() -> bool:
            return await fences(redis, "alpha") == await fences(redis, "beta") == [1] * PARTITIONS

        await until(mended)
    finally:
        await running.stop()


async def test_a_fence_that_is_lost_while_the_service_runs_is_mended(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    await promote(stub, await some_version(stub, 1))
    await promote(stub, await some_version(stub, 2))
    await redis.delete(keys.fence(STRATEGY, 1))
    await redis.set(keys.fence(STRATEGY, 2), 1)

    async def mended() -> bool:
        return await fences(redis) == [2] * PARTITIONS

    await until(mended, limit_s=3)


async def lose_the_last_change(redis: Redis, kept: bytes) -> None:
    """As a crash of the machine may: the deployments are what they were."""
    await redis.restore(deployment_keys.DEPLOYMENTS, 0, kept, replace=True)


async def test_a_generation_that_a_fence_remembers_is_not_used_again(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    one, two, three = [await some_version(stub, number) for number in range(3)]
    await promote(stub, one)
    kept = await redis.dump(deployment_keys.DEPLOYMENTS)
    assert kept is not None
    lost = await promote(stub, two)
    await redis.delete(keys.fence(STRATEGY, 0))  # one partition has lost its fence too
    await lose_the_last_change(redis, kept)
    after = await promote(stub, three, expected=1)
    assert (after.deployment.generation, after.deployment.previous_version) == (lost.deployment.generation + 1, one)
    assert await fences(redis) == [3] * PARTITIONS


async def test_a_generation_that_a_live_replica_serves_is_not_used_again(
    stub: MlopsServiceAsyncStub, redis: Redis
) -> None:
    one, two = [await some_version(stub, number) for number in range(2)]
    await promote(stub, one)
    # It serves what Redis has lost altogether, fences and all.
    await ReplicaBoard(redis).report("a", "127.0.0.1:1", {STRATEGY: Served(5, UNKNOWN)}, {}, 60_000)
    after = await promote(stub, two)
    assert after.deployment.generation == 6
    assert not after.all_swapped


async def test_a_deployment_that_is_behind_its_fence_is_told_once(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    one, two = [await some_version(stub, number) for number in range(2)]
    await promote(stub, one)
    kept = await redis.dump(deployment_keys.DEPLOYMENTS)
    assert kept is not None
    await promote(stub, two)
    with capture_logs() as logs:
        await lose_the_last_change(redis, kept)
        await redis.delete(keys.fence(STRATEGY, 0))

        def told() -> list[tuple[int, int]]:
            return [(line["generation"], line["fence"]) for line in logs if "fence" in line]

        await until(lambda: bool(told()))

        async def looked_again() -> bool:
            return await fences(redis) == [1, 2, 2]

        await until(looked_again)
        await redis.delete(keys.fence(STRATEGY, 0))
        await until(looked_again)
        assert told() == [(1, 2)]


async def test_a_model_whose_columns_stand_in_another_order_is_not_promoted(
    stub: MlopsServiceAsyncStub, redis: Redis, registered: str, settings: MlopsSettings
) -> None:
    manifest = ArtifactStore(settings.home / "models").get(registered).manifest
    await FeatureLayouts(redis).publish(manifest.feature_set, manifest.feature_names[::-1])
    found = await failed(promote(stub, registered))
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FEATURE_LAYOUT_MISMATCH")
    assert set(await fences(redis)) == {0}
    await FeatureLayouts(redis).publish(manifest.feature_set, manifest.feature_names)
    assert (await promote(stub, registered)).deployment.champion_version == registered
