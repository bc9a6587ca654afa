"""StartShadow and StopShadow over gRPC: one winner, the same retry the same answer, and what is no challenger."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from redis.asyncio import Redis

from modelstore import keys
from modelstore.deployments import DeploymentStore
from modelstore.replicas import ReplicaBoard, Served, Shadow
from quantmesh.mlops.v1 import deployment_pb2
from quantmesh.mlops.v1 import mlops_service_pb2 as messages
from tests.integration.mlops_svc.calls import UNKNOWN, failed, fields, register, some_version
from tests.integration.mlops_svc.models import STRATEGY, linear, manifest
from tests.integration.mlops_svc.test_rollout import fences, promote, rollback

if TYPE_CHECKING:  # the stubs name it, the generated code does not have it
    from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceAsyncStub


def start(
    stub: MlopsServiceAsyncStub, version: str, *, strategy: str = STRATEGY, expected: int | None = None, **more: str
) -> grpc.aio.UnaryUnaryCall[messages.StartShadowRequest, messages.StartShadowResponse]:
    request = messages.StartShadowRequest(strategy=strategy, version=version, expected_generation=expected, **more)
    return stub.StartShadow(request, timeout=20)


def stop(
    stub: MlopsServiceAsyncStub, *, strategy: str = STRATEGY, expected: int | None = None, **more: str
) -> grpc.aio.UnaryUnaryCall[messages.StopShadowRequest, messages.StopShadowResponse]:
    request = messages.StopShadowRequest(strategy=strategy, expected_generation=expected, **more)
    return stub.StopShadow(request, timeout=20)


async def test_a_challenger_comes_and_goes_beside_the_champion(stub: MlopsServiceAsyncStub, redis: Redis) -> None:
    one, two, three = [await some_version(stub, number) for number in range(3)]
    await promote(stub, one)
    started = await start(stub, two, expected=1, reason="newer", request_id="s")
    deployment = started.deployment
    assert (deployment.champion_version, deployment.challenger_version, deployment.generation) == (one, two, 2)
    assert (deployment.reason, started.all_ready, list(started.replicas)) == ("newer", True, [])
    assert set(await fences(redis)) == {2}, "a replica of before must follow, as after any change"
    replaced = await start(stub, three)
    assert replaced.deployment.challenger_version == three
    shown = await stub.GetDeployment(messages.GetDeploymentRequest(strategy=STRATEGY), timeout=5)
    assert shown.deployment == replaced.deployment
    stopped = await stop(stub, expected=3)
    assert (stopped.deployment.challenger_version, stopped.deployment.champion_version) == ("", one)
    assert stopped.all_swapped
    types = [
        deployment_pb2.DeploymentEvent.FromString(event[b"payload"]).type
        for _, event in await redis.xrange(keys.EVENTS)
    ]
    started_, stopped_ = deployment_pb2.EVENT_TYPE_SHADOW_STARTED, deployment_pb2.EVENT_TYPE_SHADOW_STOPPED
    assert types == [deployment_pb2.EVENT_TYPE_PROMOTED, started_, started_, stopped_]


async def test_what_cannot_be_a_challenger(stub: MlopsServiceAsyncStub) -> None:
    one, two = await some_version(stub, 1), await some_version(stub, 2)
    failure = await failed(start(stub, two))
    assert (failure.code, failure.reason, fields(failure)) == (
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_STRATEGY",
        ["strategy"],
    )
    await promote(stub, one)
    other = await some_version(stub, 3, strategy="other")
    wider = (await register(stub, linear([1.0, 2.0, 3.0]), manifest(columns=3))).model.version
    another_set = replace(manifest(), feature_set="intraday")
    elsewhere = (await register(stub, linear([5.0, 1.0]), another_set)).model.version
    for version, code, reason, field in (
        (UNKNOWN, "NOT_FOUND", "UNKNOWN_VERSION", "version"),
        (other, "FAILED_PRECONDITION", "WRONG_STRATEGY", "strategy"),
        (wider, "FAILED_PRECONDITION", "CHAMPION_COLUMNS_MISMATCH", "version"),
        (elsewhere, "FAILED_PRECONDITION", "CHAMPION_COLUMNS_MISMATCH", "version"),
        (one, "FAILED_PRECONDITION", "ALREADY_CHAMPION", "version"),
    ):
        failure = await failed(start(stub, version))
        assert (failure.code.name, failure.reason, fields(failure)) == (code, reason, [field])
    await start(stub, two)
    failure = await failed(start(stub, two))
    assert (failure.reason, fields(failure)) == ("ALREADY_CHALLENGER", ["version"])
    failure = await failed(start(stub, "v1", strategy="Momentum!", reason="x" * 1025, request_id="y" * 129))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(failure) == ["strategy", "reason", "request_id", "version"]


async def test_what_cannot_be_stopped(stub: MlopsServiceAsyncStub) -> None:
    failure = await failed(stop(stub))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_STRATEGY")
    await promote(stub, await some_version(stub, 1))
    failure = await failed(stop(stub))
    assert (failure.code, failure.reason, fields(failure)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NO_CHALLENGER",
        ["strategy"],
    )
    assert fields(await failed(stop(stub, strategy=""))) == ["strategy"]


async def test_of_two_starts_of_one_generation_exactly_one_wins(stub: MlopsServiceAsyncStub) -> None:
    versions = [await some_version(stub, number) for number in range(3)]
    await promote(stub, versions[0])

    async def attempt(version: str) -> messages.StartShadowResponse:
        return await start(stub, version, expected=1)

    results = await asyncio.gather(*map(attempt, versions[1:]), return_exceptions=True)
    (won,) = (result for result in results if isinstance(result, messages.StartShadowResponse))
    (lost,) = (result for result in results if isinstance(result, grpc.aio.AioRpcError))
    assert lost.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert won.deployment.generation == 2
    for call in (start(stub, versions[2], expected=1), stop(stub, expected=1)):
        failure = await failed(call)
        assert (failure.reason, fields(failure)) == ("STALE_GENERATION", ["expected_generation"])


async def test_a_start_that_comes_again_gets_the_first_answer_whatever_came_after(
    stub: MlopsServiceAsyncStub,
) -> None:
    one, two = await some_version(stub, 1), await some_version(stub, 2)
    await promote(stub, one)
    first = await start(stub, two, request_id="r")
    await promote(stub, two)
    wider = (await register(stub, linear([1.0, 2.0, 3.0]), manifest(columns=3))).model.version
    await promote(stub, wider)
    assert (await start(stub, two, request_id="r")).deployment == first.deployment
    failure = await failed(start(stub, one, request_id="r"))
    assert (failure.reason, fields(failure)) == ("REQUEST_ID_REUSED", ["request_id"])


async def test_promotions_and_rollbacks_keep_the_challenger_unless_it_becomes_champion(
    stub: MlopsServiceAsyncStub,
) -> None:
    one, two, three = [await some_version(stub, number) for number in range(3)]
    await promote(stub, one)
    await start(stub, two)
    assert (await promote(stub, three)).deployment.challenger_version == two
    assert (await rollback(stub)).deployment.challenger_version == two
    promoted = (await promote(stub, two)).deployment
    assert (promoted.champion_version, promoted.previous_version, promoted.challenger_version) == (two, one, "")
    assert (await start(stub, one)).deployment.challenger_version == one, "the champion of before"
    back = (await rollback(stub)).deployment
    assert (back.champion_version, back.challenger_version) == (one, "")


async def test_the_answer_says_which_replicas_score_with_the_challenger(
    stub: MlopsServiceAsyncStub, redis: Redis
) -> None:
    board, deployments = ReplicaBoard(redis), DeploymentStore(redis)
    one, two = await some_version(stub, 1), await some_version(stub, 2)
    await promote(stub, one)
    await board.report("able", "127.0.0.1:1", {}, {}, 60_000)
    await board.report("unable", "127.0.0.1:2", {}, {}, 60_000)

    async def replicas() -> None:
        async for deployment in deployments.watch():
            if deployment.challenger_version:
                serving = {STRATEGY: Served.of(deployment)}
                able, unable = Shadow(two, True, "", 5, 1), Shadow(two, False, "out of memory")
                await board.report("able", "127.0.0.1:1", serving, {}, 60_000, {STRATEGY: able})
                await board.report("unable", "127.0.0.1:2", serving, {}, 60_000, {STRATEGY: unable})
                return

    following = asyncio.create_task(replicas())
    response = await start(stub, two)
    await following
    assert not response.all_ready
    assert [(each.replica_id, each.swapped, each.shadow.ready, each.shadow.error) for each in response.replicas] == [
        ("able", True, True, ""),
        ("unable", True, False, "out of memory"),
    ]
    counted = response.replicas[0].shadow
    assert (counted.challenger_version, counted.rows_scored, counted.rows_dropped) == (two, 5, 1)
