"""The replica board on a real Redis."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from redis.asyncio import Redis

from modelstore import keys
from modelstore.deployments import Deployment, DeploymentStore
from modelstore.replicas import ReplicaBoard, ReplicaState, Served, Shadow
from tests.waiting import until

S = "us_equities"
A, B = "a" * 64, "b" * 64
MINUTE_MS = 60_000


def deployed(generation: int, version: str = A) -> Deployment:
    return Deployment(S, version, generation=generation)


@pytest.fixture
def board(redis: Redis) -> ReplicaBoard:
    return ReplicaBoard(redis)


async def test_statuses_say_who_serves_what(board: ReplicaBoard) -> None:
    await board.report("b", "127.0.0.1:2", {S: Served(3, A), "other": Served(9, A)}, {}, MINUTE_MS)
    await board.report("a", "127.0.0.1:1", {S: Served(2, A)}, {S: "does not load"}, MINUTE_MS)
    await board.report("c", "127.0.0.1:3", {}, {"other": "not ours"}, MINUTE_MS)
    assert await board.statuses(deployed(3)) == [
        ReplicaState("a", "127.0.0.1:1", 2, False, "does not load"),
        ReplicaState("b", "127.0.0.1:2", 3, True),
        ReplicaState("c", "127.0.0.1:3", 0, False),
    ]


async def test_what_has_followed_the_deployment_counts_as_swapped(board: ReplicaBoard, redis: Redis) -> None:
    for version in (A, B, A):
        await DeploymentStore(redis).promote(S, version, expected_generation=None, reason="", request_id="")
    await board.report("behind", "x:1", {S: Served(1, A)}, {}, MINUTE_MS)
    await board.report("between", "x:2", {S: Served(2, B)}, {}, MINUTE_MS)
    await board.report("now", "x:3", {S: Served(3, A)}, {}, MINUTE_MS)
    states = await board.statuses(deployed(2, B))
    assert [(state.replica_id, state.swapped) for state in states] == [
        ("behind", False),
        ("between", True),
        ("now", True),
    ]


async def test_another_champion_is_not_the_deployment_whatever_its_generation(
    board: ReplicaBoard, redis: Redis
) -> None:
    # Replicas that serve what Redis has lost since: the deployments begin anew, at 1.
    present = await DeploymentStore(redis).promote(S, A, expected_generation=None, reason="", request_id="")
    await board.report("same number", "x:1", {S: Served(1, B)}, {}, MINUTE_MS)
    await board.report("later number", "x:2", {S: Served(2, B)}, {}, MINUTE_MS)
    await board.report("right", "x:3", {S: Served(1, A)}, {}, MINUTE_MS)
    assert {state.replica_id: state.swapped for state in await board.statuses(present)} == {
        "same number": False,
        "later number": False,
        "right": True,
    }
    assert await board.highest(S) == 2
    assert await board.highest("other") == 0


async def test_going_back_because_redis_lost_the_change_is_not_swapping(board: ReplicaBoard, redis: Redis) -> None:
    await DeploymentStore(redis).promote(S, A, expected_generation=None, reason="", request_id="")
    await board.report("a", "x:1", {S: Served(1, A)}, {}, MINUTE_MS)
    assert [state.swapped for state in await board.statuses(deployed(2, B))] == [False]


async def test_a_report_replaces_the_one_before(board: ReplicaBoard) -> None:
    await board.report("a", "x:1", {S: Served(1, A)}, {S: "broken"}, MINUTE_MS)
    await board.report("a", "x:2", {S: Served(2, A)}, {}, MINUTE_MS)
    assert await board.statuses(deployed(2)) == [ReplicaState("a", "x:2", 2, True)]


async def test_a_silent_replica_is_forgotten(board: ReplicaBoard, redis: Redis) -> None:
    await board.report("dead", "x:1", {S: Served(1, A)}, {}, 30)
    await board.report("live", "x:2", {S: Served(1, A)}, {}, MINUTE_MS)

    async def only_the_live_one() -> bool:
        return [state.replica_id for state in await board.statuses(deployed(1))] == ["live"]

    await until(only_the_live_one)
    assert await redis.hkeys(keys.REPORTS) == [b"live"]
    assert await redis.zrange(keys.REPLICAS, 0, -1) == [b"live"]


async def test_a_replica_that_leaves_is_forgotten_at_once(board: ReplicaBoard, redis: Redis) -> None:
    await board.report("a", "x:1", {S: Served(1, A)}, {}, MINUTE_MS)
    await board.remove("a")
    await board.remove("never there")
    assert await board.statuses(deployed(1)) == []
    assert await redis.exists(keys.REPORTS, keys.REPLICAS) == 0


async def test_waiting_ends_when_the_last_replica_has_swapped(board: ReplicaBoard) -> None:
    await board.report("a", "x:1", {S: Served(2, A)}, {}, MINUTE_MS)
    await board.report("b", "x:2", {S: Served(1, A)}, {}, MINUTE_MS)
    waiting = asyncio.ensure_future(board.wait_for(deployed(2), timeout_s=30))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    await board.report("b", "x:2", {S: Served(2, A)}, {}, MINUTE_MS)
    states = await asyncio.wait_for(waiting, 5)
    assert [(state.replica_id, state.swapped) for state in states] == [("a", True), ("b", True)]


async def test_waiting_ends_at_the_limit_and_names_who_has_not_swapped(board: ReplicaBoard) -> None:
    await board.report("a", "x:1", {S: Served(2, A)}, {}, MINUTE_MS)
    await board.report("b", "x:2", {S: Served(1, A)}, {S: "out of memory"}, MINUTE_MS)
    started = time.monotonic()
    states = await board.wait_for(deployed(2), timeout_s=0.2)
    assert time.monotonic() - started >= 0.2
    assert [state for state in states if not state.swapped] == [ReplicaState("b", "x:2", 1, False, "out of memory")]


async def test_waiting_does_not_wait_for_the_dead_nor_when_there_is_nobody(board: ReplicaBoard) -> None:
    assert await asyncio.wait_for(board.wait_for(deployed(1), timeout_s=30), 5) == []
    await board.report("dies", "x:1", {S: Served(1, A)}, {}, 100)
    assert await asyncio.wait_for(board.wait_for(deployed(2), timeout_s=30), 5) == []


async def test_a_start_is_settled_by_who_scores_who_cannot_and_who_went_on(board: ReplicaBoard, redis: Redis) -> None:
    store = DeploymentStore(redis)

    async def suits(_: Deployment) -> None:
        """Every challenger suits."""

    await store.promote(S, A, expected_generation=None, reason="", request_id="")
    started = await store.start_shadow(S, B, suits, expected_generation=None, reason="", request_id="")
    reports = {
        "loading": {S: Shadow(B)},
        "ready": {S: Shadow(B, True, "", 7, 1)},
        "unable": {S: Shadow(B, False, "no memory")},
        "of another": {S: Shadow("c" * 64, True)},
    }
    for replica, shadows in reports.items():
        await board.report(replica, "x:1", {S: Served.of(started)}, {}, MINUTE_MS, shadows)
    await board.report("behind", "x:1", {S: Served(1, A)}, {}, MINUTE_MS)
    states = {state.replica_id: state for state in await board.statuses(started)}
    assert states["ready"].shadow == Shadow(B, True, "", 7, 1)
    assert [name for name, state in states.items() if state.shadows(B)] == ["ready"]
    assert {name for name, state in states.items() if state.settled(started, B)} == {"ready", "unable"}
    assert {name for name, state in states.items() if state.settled(started, "")} == states.keys() - {"behind"}

    stopped = await store.stop_shadow(S, expected_generation=None, reason="", request_id="")
    await board.report("loading", "x:1", {S: Served.of(stopped)}, {}, MINUTE_MS)
    settled = {state.replica_id for state in await board.statuses(started) if state.settled(started, B)}
    assert settled == {"ready", "unable", "loading"}


async def test_a_report_of_before_there_were_challengers_is_read(board: ReplicaBoard, redis: Redis) -> None:
    await board.report("a", "x:1", {S: Served(3, A)}, {}, MINUTE_MS)
    document = {"address": "x:1", "serving": {S: [3, A]}, "errors": {}}
    await redis.hset(keys.REPORTS, "a", json.dumps(document))
    (state,) = await board.statuses(deployed(3))
    assert (state.swapped, state.shadow) == (True, None)
