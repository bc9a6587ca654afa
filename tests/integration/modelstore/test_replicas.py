"""The replica board on a real Redis."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from modelstore import keys
from modelstore.replicas import ReplicaBoard, ReplicaState
from tests.waiting import until

S = "us_equities"
MINUTE_MS = 60_000


@pytest.fixture
def board(redis: Redis) -> ReplicaBoard:
    return ReplicaBoard(redis)


async def test_statuses_say_who_serves_what(board: ReplicaBoard) -> None:
    await board.report("b", "127.0.0.1:2", {S: 3, "other": 9}, {}, MINUTE_MS)
    await board.report("a", "127.0.0.1:1", {S: 2}, {S: "does not load"}, MINUTE_MS)
    await board.report("c", "127.0.0.1:3", {}, {"other": "not ours"}, MINUTE_MS)
    assert await board.statuses(S, 3) == [
        ReplicaState("a", "127.0.0.1:1", 2, False, "does not load"),
        ReplicaState("b", "127.0.0.1:2", 3, True),
        ReplicaState("c", "127.0.0.1:3", 0, False),
    ]


async def test_a_later_generation_counts_as_swapped(board: ReplicaBoard) -> None:
    await board.report("a", "x:1", {S: 5}, {}, MINUTE_MS)
    assert [state.swapped for state in await board.statuses(S, 4)] == [True]


async def test_a_report_replaces_the_one_before(board: ReplicaBoard) -> None:
    await board.report("a", "x:1", {S: 1}, {S: "broken"}, MINUTE_MS)
    await board.report("a", "x:2", {S: 2}, {}, MINUTE_MS)
    assert await board.statuses(S, 2) == [ReplicaState("a", "x:2", 2, True)]


async def test_a_silent_replica_is_forgotten(board: ReplicaBoard, redis: Redis) -> None:
    await board.report("dead", "x:1", {S: 1}, {}, 30)
    await board.report("live", "x:2", {S: 1}, {}, MINUTE_MS)

    async def only_the_live_one() -> bool:
        return [state.replica_id for state in await board.statuses(S, 1)] == ["live"]

    await until(only_the_live_one)
    assert await redis.hkeys(keys.REPORTS) == [b"live"]
    assert await redis.zrange(keys.REPLICAS, 0, -1) == [b"live"]


async def test_a_replica_that_leaves_is_forgotten_at_once(board: ReplicaBoard, redis: Redis) -> None:
    await board.report("a", "x:1", {S: 1}, {}, MINUTE_MS)
    await board.remove("a")
    await board.remove("never there")
    assert await board.statuses(S, 1) == []
    assert await redis.exists(keys.REPORTS, keys.REPLICAS) == 0


async def test_waiting_ends_when_the_last_replica_has_swapped(board: ReplicaBoard) -> None:
    await board.report("a", "x:1", {S: 2}, {}, MINUTE_MS)
    await board.report("b", "x:2", {S: 1}, {}, MINUTE_MS)
    waiting = asyncio.ensure_future(board.wait_for(S, 2, timeout_s=30))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    await board.report("b", "x:2", {S: 2}, {}, MINUTE_MS)
    states = await asyncio.wait_for(waiting, 5)
    assert [(state.replica_id, state.swapped) for state in states] == [("a", True), ("b", True)]


async def test_waiting_ends_at_the_limit_and_names_who_has_not_swapped(board: ReplicaBoard) -> None:
    await board.report("a", "x:1", {S: 2}, {}, MINUTE_MS)
    await board.report("b", "x:2", {S: 1}, {S: "out of memory"}, MINUTE_MS)
    started = time.monotonic()
    states = await board.wait_for(S, 2, timeout_s=0.2)
    assert time.monotonic() - started >= 0.2
    assert [state for state in states if not state.swapped] == [ReplicaState("b", "x:2", 1, False, "out of memory")]


async def test_waiting_does_not_wait_for_the_dead_nor_when_there_is_nobody(board: ReplicaBoard) -> None:
    assert await asyncio.wait_for(board.wait_for(S, 1, timeout_s=30), 5) == []
    await board.report("dies", "x:1", {S: 1}, {}, 100)
    assert await asyncio.wait_for(board.wait_for(S, 2, timeout_s=30), 5) == []
