"""Strategies side by side: one that cannot score holds up nobody, and loses nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from redis.asyncio import Redis

from inference_svc.held import backlogs, stream_of
from modelstore.deployments import Deployment, DeploymentStore
from modelstore.replicas import ReplicaBoard
from quantmesh.streams.v1 import feature_pb2, signal_pb2
from streams import keys, raise_fences, scripts
from tests.integration.inference_svc.models import register, replica, ridge, table
from tests.integration.inference_svc.vectors import CATALOG, consumed, publish, signals, vector
from tests.waiting import until

ZEROS = [0.0, 0.0, 0.0]


async def promote(deployments: DeploymentStore, redis: Redis, version: str, strategy: str) -> Deployment:
    """Promote as mlops_svc does it: the fences are up when it answers."""
    deployed = await deployments.promote(strategy, version, expected_generation=None, reason="", request_id="")
    await raise_fences(redis, CATALOG, strategy, deployed.generation)
    return deployed


async def held(redis: Redis, strategy: str) -> int:
    return (await backlogs(redis, CATALOG, [strategy], range(CATALOG.partitions)))[strategy]


async def count(redis: Redis, strategy: str, reached: int) -> None:
    async def all_there() -> bool:
        return len(await signals(redis, strategy)) >= reached

    await until(all_there, 20)


def in_order(made: list[signal_pb2.Signal], numbers: range) -> None:
    """Each vector has its one signal, and those of a symbol are in the order of the vectors."""
    wanted = {vector(n, ZEROS).as_of.seconds for n in numbers}
    assert Counter(signal.as_of.seconds for signal in made) == Counter(wanted)
    by_symbol: dict[str, list[int]] = {}
    for signal in made:
        by_symbol.setdefault(signal.symbol, []).append(signal.as_of.seconds)
    assert all(times == sorted(times) for times in by_symbol.values())


class Artifact:
    """A registered model whose file comes and goes."""

    def __init__(self, home: Path, version: str) -> None:
        self.version = version
        self._file = home / "models" / version / "model.onnx"
        self._away = home / f"{version}.away"

    def hide(self) -> None:
        self._file.rename(self._away)

    def show(self) -> None:
        self._away.rename(self._file)


async def told(redis: Redis, deployed: Deployment) -> None:
    async def is_told() -> bool:
        return any("ARTIFACT_CORRUPT" in state.error for state in await ReplicaBoard(redis).statuses(deployed))

    await until(is_told)


@pytest.mark.parametrize("known_before", [True, False], ids=["promoted-to-it", "first-promotion"])
async def test_a_model_that_cannot_be_loaded_holds_up_its_own_signals_only_and_none_is_lost(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, known_before: bool
) -> None:
    good, bad = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    await promote(deployments, redis, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    if known_before:
        await promote(deployments, redis, good, "momentum")
    artifact = Artifact(tmp_path, bad)
    artifact.hide()
    async with replica(tmp_path, redis_url):
        deployed = await promote(deployments, redis, bad, "momentum")
        await told(redis, deployed)
        await publish(redis, [vector(n, ZEROS) for n in range(200)])
        await count(redis, "carry", 200)
        assert await signals(redis, "momentum") == []
        assert await held(redis, "momentum") == 200
        artifact.show()
        await publish(redis, [vector(n, ZEROS) for n in range(200, 400)])
        await count(redis, "momentum", 400)
        # And back to the direct way.
        await publish(redis, [vector(n, ZEROS) for n in range(400, 500)])
        await count(redis, "momentum", 500)
        await count(redis, "carry", 500)
    made = await signals(redis, "momentum")
    in_order(made, range(500))
    in_order(await signals(redis, "carry"), range(500))
    assert {(signal.receipt.generation, signal.receipt.model_digest) for signal in made} == {(deployed.generation, bad)}
    assert await consumed(redis) == 500
    assert await held(redis, "momentum") == 0
    last = await redis.xrevrange(keys.entries(stream_of("momentum"), CATALOG.partition_of("SYM0")), count=1)
    newest = feature_pb2.FeatureVector.FromString(last[0][1][keys.PAYLOAD])
    assert newest.as_of.seconds < vector(400, ZEROS).as_of.seconds, "nothing is held any more"


async def test_a_rollback_releases_what_was_held_under_the_model_that_it_brings_back(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    good, bad = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    await promote(deployments, redis, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    await promote(deployments, redis, good, "momentum")
    Artifact(tmp_path, bad).hide()
    async with replica(tmp_path, redis_url):
        await told(redis, await promote(deployments, redis, bad, "momentum"))
        await publish(redis, [vector(n, ZEROS) for n in range(64)])
        await count(redis, "carry", 64)
        assert await signals(redis, "momentum") == []
        back = await deployments.rollback("momentum", expected_generation=None, reason="", request_id="")
        await raise_fences(redis, CATALOG, "momentum", back.generation)
        await count(redis, "momentum", 64)
    made = await signals(redis, "momentum")
    in_order(made, range(64))
    assert {(s.receipt.generation, s.receipt.model_digest) for s in made} == {(back.generation, good)}


async def test_a_fence_above_every_deployment_stops_its_own_strategy_only(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    """As it is when Redis lost a deployment's last change, but not its fence."""
    first, second = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    await promote(deployments, redis, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    await promote(deployments, redis, first, "momentum")
    async with replica(tmp_path, redis_url):
        for partition in range(CATALOG.partitions):
            await scripts.raise_fence(redis, "momentum", partition, 3)
        await publish(redis, [vector(n, ZEROS) for n in range(64)])
        await count(redis, "carry", 64)
        assert await signals(redis, "momentum") == []
        # The fences are lost as well: nothing is to be waited for.
        for partition in range(CATALOG.partitions):
            await redis.set(keys.fence("momentum", partition), 1)
        await count(redis, "momentum", 64)
        await publish(redis, [vector(n, ZEROS) for n in range(64, 96)])
        await count(redis, "momentum", 96)
        deployed = await promote(deployments, redis, second, "momentum")
        await publish(redis, [vector(n, ZEROS) for n in range(96, 128)])
        await count(redis, "momentum", 128)
    made = await signals(redis, "momentum")
    in_order(made, range(128))
    assert Counter(s.receipt.generation for s in made) == {1: 96, deployed.generation: 32}


async def test_a_replica_that_can_load_the_model_scores_what_another_holds(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    """Two machines, and the model is on the disk of one of them."""
    with_it, without = tmp_path / "one", tmp_path / "other"
    version = register(with_it, ridge(1.0))
    assert register(without, ridge(1.0)) == version
    await promote(deployments, redis, version, "momentum")
    carry = [register(home, ridge(3.0), strategy="carry") for home in (with_it, without)]
    await promote(deployments, redis, carry[0], "carry")
    Artifact(without, version).hide()
    async with replica(without, redis_url):
        await publish(redis, [vector(n, ZEROS) for n in range(200)])
        await count(redis, "carry", 200)
        assert await signals(redis, "momentum") == []
        async with replica(with_it, redis_url):
            await publish(redis, [vector(n, ZEROS) for n in range(200, 400)])
            await count(redis, "momentum", 400)
            await count(redis, "carry", 400)
    in_order(await signals(redis, "momentum"), range(400))
    in_order(await signals(redis, "carry"), range(400))


async def test_what_cannot_be_scored_after_all_is_a_dead_letter_of_its_strategy(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    version = register(tmp_path, table(10.0, 20.0))
    artifact = Artifact(tmp_path, version)
    artifact.hide()
    await promote(deployments, redis, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    await promote(deployments, redis, version, "momentum")
    given = [vector(n, [float(n % 2), 0.0, 0.0]) for n in range(32)]
    given[5] = vector(5, [7.0, 0.0, 0.0])  # the table has no such entry
    given[6] = vector(6, ZEROS, feature_set="another")
    given[7] = vector(7, ZEROS, status=feature_pb2.FEATURE_STATUS_STALE)
    async with replica(tmp_path, redis_url):
        await publish(redis, given)
        await count(redis, "carry", 30)
        assert await held(redis, "momentum") == 31, "nobody knows its feature set while it is not loaded"
        artifact.show()

        async def all_released() -> bool:
            return await held(redis, "momentum") == 0

        await until(all_released, 20)
    assert Counter(s.prediction for s in await signals(redis, "momentum")) == {10.0: 15, 20.0: 14}
    letters = [
        entry
        for partition in range(CATALOG.partitions)
        for entry in await redis.xrange(keys.dead_letters(stream_of("momentum"), partition))
    ]
    assert len(letters) == 1


async def test_a_strategy_that_comes_and_goes_under_load_keeps_every_signal_and_their_order(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await promote(deployments, redis, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    await promote(deployments, redis, register(tmp_path, ridge(1.0)), "momentum")
    published = 0
    over = asyncio.Event()

    async def load() -> None:
        nonlocal published
        while not over.is_set():
            await publish(redis, [vector(n, ZEROS) for n in range(published, published + 16)])
            published += 16
            await asyncio.sleep(0.02)

    async with replica(tmp_path, redis_url), replica(tmp_path, redis_url):
        loading = asyncio.create_task(load())
        for number in range(6):
            version = register(tmp_path, ridge(10.0 + number))
            artifact = Artifact(tmp_path, version)
            artifact.hide()
            deployed = await promote(deployments, redis, version, "momentum")
            await count(redis, "carry", published + 64)
            artifact.show()
            assert all(state.swapped for state in await ReplicaBoard(redis).wait_for(deployed, 15.0))
            await count(redis, "momentum", published + 64 * (number % 3))
        over.set()
        await loading
        await count(redis, "momentum", published)
        await count(redis, "carry", published)
    made = await signals(redis, "momentum")
    in_order(made, range(published))
    in_order(await signals(redis, "carry"), range(published))
    assert len({signal.receipt.generation for signal in made}) > 3
