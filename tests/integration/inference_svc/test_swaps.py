"""Promotions and rollbacks under a replica that serves: no call fails, and no answer mixes versions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from inference_svc.follower import Follower
from inference_svc.loader import Loader
from inference_svc.registry import LoadedModel, Registry
from inference_svc.settings import InferenceSettings
from modelstore import keys
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import Deployment, DeploymentStore
from modelstore.replicas import ReplicaBoard
from quantmesh.inference.v1 import inference_service_pb2 as pb
from tests.integration.inference_svc.calls import batch, client
from tests.integration.inference_svc.models import expected, register, replica, ridge, rows
from tests.waiting import until

ROW = [0.5, -1.0, 2.0]
SWAPS = 20


async def promote(deployments: DeploymentStore, version: str, strategy: str = "momentum") -> Deployment:
    return await deployments.promote(strategy, version, expected_generation=None, reason="", request_id="")


async def rollback(deployments: DeploymentStore) -> Deployment:
    return await deployments.rollback("momentum", expected_generation=None, reason="", request_id="")


async def test_a_storm_of_predicts_survives_twenty_swaps_and_each_answer_is_of_one_version(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    versions = {register(tmp_path, ridge(level)): level for level in (1.0, 2.0, 3.0, 4.0)}
    first = await promote(deployments, next(iter(versions)))
    champion_of = {first.generation: first.champion_version}
    board = ReplicaBoard(redis)
    matrix = rows(16).tolist()
    answers: list[pb.PredictResponse] = []
    batches: list[pb.BatchPredictResponse] = []
    over = asyncio.Event()

    async with replica(tmp_path, redis_url, p99_ms_target=60_000) as running, client(running.address) as stub:

        async def storm() -> None:
            while not over.is_set():
                answers.append(await stub.Predict(pb.PredictRequest(model_name="momentum", features=ROW)))
                batches.append(await stub.BatchPredict(batch(matrix)))

        async def seen_by_the_storm(generation: int) -> None:
            # However late its callers get their turn.
            await until(lambda: any(answer.generation == generation for answer in answers[-100:]))

        callers = [asyncio.create_task(storm()) for _ in range(8)]
        for number in range(SWAPS):
            if number % 3 == 2:
                deployed = await rollback(deployments)
            else:
                present = champion_of[max(champion_of)]
                others = [version for version in versions if version != present]
                deployed = await promote(deployments, others[number % 3])
            champion_of[deployed.generation] = deployed.champion_version
            states = await board.wait_for(deployed, 10.0)
            assert [state.swapped for state in states] == [True]
            asked = await stub.Predict(pb.PredictRequest(model_name="momentum", features=ROW))
            assert asked.generation == deployed.generation, "a swap that is reported is a swap that serves"
            await seen_by_the_storm(deployed.generation)
        over.set()
        await asyncio.gather(*callers)

    assert len(answers) > 10 * SWAPS
    assert {answer.generation for answer in answers} >= set(champion_of)
    for answer in [*answers, *batches]:
        assert answer.model_version == champion_of[answer.generation]
        level = versions[answer.model_version]
        if isinstance(answer, pb.PredictResponse):
            assert answer.prediction == pytest.approx(expected(level, ROW), abs=1e-3)
        else:
            assert list(answer.predictions) == pytest.approx([expected(level, row) for row in matrix], abs=1e-3)


async def test_a_rollback_loads_nothing_and_what_nobody_refers_to_is_unloaded(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    first, second, third = (register(tmp_path, ridge(level)) for level in (1.0, 2.0, 3.0))
    await promote(deployments, first)
    await promote(deployments, second)
    board = ReplicaBoard(redis)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        # Without the files, a load would fail.
        (tmp_path / "models").rename(tmp_path / "elsewhere")
        deployed = await rollback(deployments)
        assert all(state.swapped for state in await board.wait_for(deployed, 5.0))
        assert (await stub.Predict(pb.PredictRequest(features=ROW))).model_version == first
        (tmp_path / "elsewhere").rename(tmp_path / "models")
        deployed = await promote(deployments, third)
        assert all(state.swapped for state in await board.wait_for(deployed, 5.0))
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        assert [(model.alias, model.version) for model in models] == [("champion", third), ("previous", first)]
        assert REGISTRY.get_sample_value("quantmesh_inference_loaded_models") == 2


async def test_a_damaged_artifact_changes_nothing_but_the_board_until_it_is_mended(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    good, bad = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    other = register(tmp_path, ridge(3.0), strategy="carry")
    file = tmp_path / "models" / bad / "model.onnx"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    await promote(deployments, good)
    board = ReplicaBoard(redis)

    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        deployed = await promote(deployments, bad)
        before = deployed.generation - 1

        async def is_told() -> bool:
            return any(state.error for state in await board.statuses(deployed))

        await until(is_told)
        (state,) = await board.statuses(deployed)
        assert "ARTIFACT_CORRUPT" in state.error
        assert (state.swapped, state.generation, state.address) == (False, before, running.address)
        answer = await stub.Predict(pb.PredictRequest(model_name="momentum", features=ROW))
        assert (answer.model_version, answer.generation) == (good, before)
        carry = await promote(deployments, other, "carry")
        assert all(state.swapped for state in await board.wait_for(carry, 5.0)), "other strategies go on"

        ArtifactStore(tmp_path / "models").put(ArtifactStore(tmp_path / "models").get(bad).manifest, whole)
        (state,) = await board.wait_for(deployed, 15.0)
        assert (state.swapped, state.error) == (True, "")
        answer = await stub.Predict(pb.PredictRequest(model_name="momentum", features=ROW))
        assert answer.model_version == bad


async def test_a_replica_starts_with_a_damaged_previous_and_without_a_damaged_champion(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    first, second = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    await promote(deployments, first)
    await promote(deployments, second)
    await promote(deployments, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    (tmp_path / "models" / first / "model.onnx").write_bytes(b"not a model")
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        assert [(m.strategy, m.alias) for m in models] == [("carry", "champion"), ("momentum", "champion")]
    (tmp_path / "models" / second / "model.onnx").unlink()
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        assert [(m.strategy, m.alias) for m in models] == [("carry", "champion")]


async def test_a_replica_is_on_the_board_while_it_runs_and_off_it_afterwards(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    deployed = await promote(deployments, register(tmp_path, ridge(1.0)))
    board = ReplicaBoard(redis)

    async def count() -> int:
        return len(await board.statuses(deployed))

    async with replica(tmp_path, redis_url), replica(tmp_path, redis_url):

        async def both() -> bool:
            return await count() == 2

        await until(both)
        assert all(state.swapped for state in await board.statuses(deployed))
    assert await count() == 0


async def test_a_replica_serves_what_the_state_says_when_redis_has_lost_changes(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    first, second, third = (register(tmp_path, ridge(level)) for level in (1.0, 2.0, 3.0))
    kept = []
    for version in (first, second):
        before = await promote(deployments, version)
        kept.append(await redis.dump(keys.DEPLOYMENTS))
    board = ReplicaBoard(redis)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        assert (await stub.Predict(pb.PredictRequest(features=ROW))).generation == 2
        # The number that was lost comes again at once, for another champion.
        async with redis.pipeline(transaction=True) as lose:
            lose.restore(keys.DEPLOYMENTS, 0, kept[0], replace=True)
            await lose.execute()
        again = await promote(deployments, third)
        assert again.generation == before.generation
        (state,) = await board.wait_for(again, 5.0)
        assert state.swapped
        assert (await stub.Predict(pb.PredictRequest(features=ROW))).model_version == third
        # And the number goes back.
        await redis.restore(keys.DEPLOYMENTS, 0, kept[0], replace=True)
        back = await deployments.get("momentum")
        assert back is not None
        (state,) = await board.wait_for(back, 5.0)
        assert state.swapped
        answer = await stub.Predict(pb.PredictRequest(features=ROW))
        assert (answer.model_version, answer.generation) == (first, 1)


async def test_whoever_promotes_waits_for_a_replica_that_starts_and_it_never_serves_what_was_demoted(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    first, second = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    deployed = await promote(deployments, first)
    loading, go_on = asyncio.Event(), asyncio.Event()

    class SlowLoader(Loader):
        async def load(self, version: str) -> LoadedModel:
            loading.set()
            await go_on.wait()
            return await super().load(version)

    board, registry = ReplicaBoard(redis), Registry()
    loader = SlowLoader(ArtifactStore(tmp_path / "models"), InferenceSettings(home=tmp_path, model_warmup=False))
    follower = Follower(deployments, board, loader, registry, "starting")
    starting = asyncio.create_task(follower.start())
    await asyncio.wait_for(loading.wait(), 5)
    (state,) = await board.statuses(deployed)
    assert (state.replica_id, state.generation, state.swapped) == ("starting", 0, False)

    demoting = await promote(deployments, second)
    answered = asyncio.create_task(board.wait_for(demoting, 10.0))
    done, _ = await asyncio.wait({answered}, timeout=0.2)
    assert not done, "Promote does not answer before a replica that starts"
    go_on.set()
    await asyncio.wait_for(starting, 5)
    assert registry.current.resolve("momentum").loaded.version == second
    assert [state.swapped for state in await answered] == [True]


async def test_a_replica_that_loads_for_long_stays_on_the_board(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    deployed = await promote(deployments, register(tmp_path, ridge(1.0)))
    go_on = asyncio.Event()

    class SlowLoader(Loader):
        async def load(self, version: str) -> LoadedModel:
            await go_on.wait()
            return await super().load(version)

    board = ReplicaBoard(redis)
    loader = SlowLoader(ArtifactStore(tmp_path / "models"), InferenceSettings(home=tmp_path, model_warmup=False))
    starting = asyncio.create_task(Follower(deployments, board, loader, Registry(), "starting").start())

    async def until_ms() -> float:
        return await redis.zscore(keys.REPLICAS, "starting") or 0.0

    async def entered() -> bool:
        return await until_ms() > 0

    await until(entered)
    first = await until_ms()

    async def renewed() -> bool:
        return await until_ms() > first

    await until(renewed)
    go_on.set()
    await asyncio.wait_for(starting, 5)
    assert [state.swapped for state in await board.statuses(deployed)] == [True]
