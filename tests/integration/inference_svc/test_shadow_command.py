"""`quantmesh shadow pairs`: what the newest pairs say, as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redis.asyncio import Redis

from inference_svc.shadow.recorder import stream_of
from modelstore.deployments import DeploymentStore
from modelstore.replicas import ReplicaBoard, Shadow
from quantmesh.streams.v1.shadow_pair_pb2 import ShadowPair, ShadowScore
from runtime.times import from_us
from streams import OutRecord, Producer
from tests.integration.inference_svc.shadowing import CATALOG, STRATEGY, promote, start_shadow
from tests.integration.runtime.command import Command

CHAMPION, CHALLENGER, OTHER = "a" * 64, "b" * 64, "c" * 64


def pair(number: int, challenger: str = CHALLENGER) -> ShadowPair:
    return ShadowPair(
        strategy=STRATEGY,
        generation=2,
        request_id=f"r{number}",
        champion=ShadowScore(model_version=CHAMPION, prediction=number, latency_us=10, batch_rows=4),
        challenger=ShadowScore(model_version=challenger, prediction=number + 0.5, latency_us=20, batch_rows=1),
        scored_at=from_us(1_700_000_000_000_000 + number),
    )


async def record(redis: Redis, *pairs: ShadowPair) -> None:
    for each in pairs:
        await Producer(redis, CATALOG).send_many(
            [OutRecord(stream_of(STRATEGY), each.request_id, each.SerializeToString())]
        )


@pytest.fixture
def quantmesh(tmp_path: Path, redis_url: str) -> Command:
    return Command(tmp_path, QUANTMESH_REDIS_URL=redis_url)


async def test_pairs_are_compared_and_listed(quantmesh: Command, redis: Redis, deployments: DeploymentStore) -> None:
    await promote(deployments, CHAMPION)
    await start_shadow(deployments, CHALLENGER)
    board = ReplicaBoard(redis)
    for replica in ("one", "other"):
        shadows = {STRATEGY: Shadow(CHALLENGER, True, "", 20, 3)}
        await board.report(replica, "h:1", {}, {}, 60_000, shadows)
    await record(redis, pair(1, OTHER), *map(pair, range(2, 12)))
    said = await quantmesh("shadow", "pairs", STRATEGY, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["summary"] == {
        "strategy": STRATEGY,
        "champion_version": CHAMPION,
        "challenger_version": CHALLENGER,
        "pairs": 10,
        "correlation": pytest.approx(1.0),
        "mean_abs_difference": 0.5,
        "same_direction": 1.0,
        "champion_p50_us": 10.0,
        "champion_p99_us": 10.0,
        "challenger_p50_us": 20.0,
        "challenger_p99_us": 20.0,
        "rows_scored": 40,
        "rows_dropped": 6,
    }
    assert [each["request_id"] for each in found["pairs"]] == [f"r{number}" for number in range(2, 12)]
    said = await quantmesh("shadow", "pairs", STRATEGY, "--last", "3", "--json")
    assert json.loads(said.out)["summary"]["pairs"] == 3
    said = await quantmesh("shadow", "pairs", STRATEGY, "--challenger", OTHER, "--json")
    assert [each["request_id"] for each in json.loads(said.out)["pairs"]] == ["r1"]
    said = await quantmesh("shadow", "pairs", STRATEGY)
    assert said.code == 0
    assert CHALLENGER in said.out
    assert "r11" in said.out


async def test_without_pairs_the_exit_code_is_1(quantmesh: Command) -> None:
    said = await quantmesh("shadow", "pairs", STRATEGY)
    assert said.code == 1
    assert said.err.startswith("no pairs of 'momentum' yet")
    said = await quantmesh("shadow", "pairs", STRATEGY, "--json")
    assert json.loads(said.out)["summary"]["correlation"] is None


async def test_names_that_are_none_are_wrong_usage(quantmesh: Command) -> None:
    assert (await quantmesh("shadow", "pairs", "No Name")).code == 2
    assert (await quantmesh("shadow", "pairs", STRATEGY, "--challenger", "abc")).code == 2
