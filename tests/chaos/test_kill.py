"""Kill -9 during a replay: the supervisor brings the service back, and the books balance all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from examples.us_equities import job
from examples.us_equities.accounting import read_books
from examples.us_equities.deployment import Operator
from examples.us_equities.replay import VECTORS, Replay
from runtime import grpc_client, telemetry
from streams import load_catalog
from tests.mesh import RunningMesh, running_mesh

CATALOG = load_catalog(partitions=4)
SESSIONS = 20


async def replay_and_kill(mesh: RunningMesh, victims: list[str]) -> None:
    """Kill the victims one after another, spread over a replay; nothing may be lost or twice."""
    plan = job.Plan.of(SESSIONS)
    model, *_ = await asyncio.to_thread(plan.train)
    async with grpc_client.channel(mesh.addresses.mlops) as channel:
        operator = Operator(channel)
        await operator.promote(await operator.register(model), "chaos")
    total = plan.expected.counts[VECTORS]
    marks = [total * (number + 1) // (len(victims) + 1) for number in range(len(victims))]
    waiting = list(zip(marks, victims, strict=True))

    def kill_when_due(counts: dict[str, int]) -> None:
        if waiting and counts and counts[VECTORS] >= waiting[0][0] and mesh.record.pids[waiting[0][1]] is not None:
            mesh.kill(waiting.pop(0)[1])

    async with Redis.from_url(mesh.redis_url) as redis:
        await Replay(redis, CATALOG, plan.replayed, plan.expected).run(kill_when_due)
        books = await read_books(redis, CATALOG, plan.replayed, plan.features, plan.expected)
    assert not waiting, f"never killed: {waiting}"
    for stage in books.stages:
        assert (stage.lost, stage.duplicated) == (0, 0), stage.stream
    assert books.balanced
    restarts = mesh.record.restarts
    assert all(restarts[victim] >= victims.count(victim) for victim in set(victims)), restarts


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(["feature_svc"] * 3, id="feature_svc"),
        pytest.param(["inference_svc"] * 3, id="inference_svc"),
        pytest.param(["mlops_svc", "gateway", "redis"], id="mlops_svc-gateway-redis"),
    ],
)
def test_a_killed_service_loses_and_repeats_nothing(tmp_path: Path, victims: list[str]) -> None:
    telemetry.configure("replay")
    with running_mesh(tmp_path) as mesh:
        asyncio.run(replay_and_kill(mesh, victims))
