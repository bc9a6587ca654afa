"""Deployments on a real Redis: one winner, safe retries, events, and watchers that miss no last state."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from modelstore import keys, requests, scripts
from modelstore.deployments import Deployment, DeploymentStore
from quantmesh.mlops.v1 import deployment_pb2
from runtime import telemetry
from runtime.embedded_redis import EmbeddedRedis
from runtime.errors import FailedPreconditionError, InvalidInputError, NotFoundError
from runtime.redis_client import connect
from runtime.times import now_us

S = "us_equities"
A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def store(redis: Redis) -> DeploymentStore:
    return DeploymentStore(redis)


async def promote(
    store: DeploymentStore,
    version: str,
    *,
    expected: int | None = None,
    request_id: str = "",
    reason: str = "",
    strategy: str = S,
) -> Deployment:
    return await store.promote(strategy, version, expected_generation=expected, reason=reason, request_id=request_id)


async def rollback(store: DeploymentStore, *, expected: int | None = None, request_id: str = "") -> Deployment:
    return await store.rollback(S, expected_generation=expected, reason="bad fills", request_id=request_id)


async def events(redis: Redis) -> list[deployment_pb2.DeploymentEvent]:
    return [
        deployment_pb2.DeploymentEvent.FromString(fields[b"payload"]) for _, fields in await redis.xrange(keys.EVENTS)
    ]


async def test_promote_and_rollback_move_the_versions_and_the_generation(store: DeploymentStore) -> None:
    assert await store.get(S) is None
    started = now_us()
    first = await promote(store, A, reason="first")
    assert (first.champion_version, first.previous_version, first.generation, first.reason) == (A, "", 1, "first")
    assert started <= first.updated_at_us <= now_us()
    second = await promote(store, B)
    assert (second.champion_version, second.previous_version, second.generation) == (B, A, 2)
    back = await rollback(store)
    assert (back.champion_version, back.previous_version, back.generation, back.reason) == (A, B, 3, "bad fills")
    assert await store.get(S) == back


async def test_all_are_sorted_by_strategy(store: DeploymentStore) -> None:
    for strategy in ("gamma", "alpha", "beta"):
        await promote(store, A, strategy=strategy)
    assert [deployment.strategy for deployment in await store.all()] == ["alpha", "beta", "gamma"]


async def test_each_change_writes_one_event_with_its_trace(store: DeploymentStore, redis: Redis) -> None:
    with telemetry.span("test", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"):
        traceparent = telemetry.current_traceparent()
        await promote(store, A, request_id="r1")
    await promote(store, B, request_id="r2")
    after = await rollback(store, request_id="r3")
    with pytest.raises(FailedPreconditionError):
        await promote(store, A, request_id="r4")
    found = await events(redis)
    assert [(event.type, event.request_id, event.deployment.generation) for event in found] == [
        (deployment_pb2.EVENT_TYPE_PROMOTED, "r1", 1),
        (deployment_pb2.EVENT_TYPE_PROMOTED, "r2", 2),
        (deployment_pb2.EVENT_TYPE_ROLLED_BACK, "r3", 3),
    ]
    assert found[-1].deployment.champion_version == after.champion_version
    assert (await redis.xrange(keys.EVENTS))[0][1][b"traceparent"].decode() == traceparent


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_stale_generation_is_refused_and_changes_nothing(
    store: DeploymentStore, redis: Redis, expected: int
) -> None:
    await promote(store, A, expected=0)
    before = await promote(store, B, expected=1)
    with pytest.raises(FailedPreconditionError) as caught:
        await promote(store, C, expected=expected, request_id="r")
    assert caught.value.reason == "STALE_GENERATION"
    with pytest.raises(FailedPreconditionError) as caught:
        await rollback(store, expected=expected)
    assert caught.value.reason == "STALE_GENERATION"
    assert await store.get(S) == before
    assert len(await events(redis)) == 2
    assert not await redis.exists(keys.request("r"))


async def test_of_many_changes_of_one_generation_exactly_one_wins(store: DeploymentStore, redis: Redis) -> None:
    await promote(store, A)
    versions = [f"{n:064x}" for n in range(20)]
    results = await asyncio.gather(*(promote(store, v, expected=1) for v in versions), return_exceptions=True)
    won = [result for result in results if isinstance(result, Deployment)]
    lost = [result for result in results if isinstance(result, FailedPreconditionError)]
    assert len(won) == 1
    assert [error.reason for error in lost] == ["STALE_GENERATION"] * 19
    assert await store.get(S) == won[0]
    assert len(await events(redis)) == 2


async def test_changes_without_an_expected_generation_all_take_place_one_after_the_other(
    store: DeploymentStore, redis: Redis
) -> None:
    versions = [f"{n:064x}" for n in range(20)]
    results = await asyncio.gather(*(promote(store, v) for v in versions))
    assert sorted(result.generation for result in results) == list(range(1, 21))
    chain = sorted(results, key=lambda result: result.generation)
    assert [r.previous_version for r in chain[1:]] == [r.champion_version for r in chain[:-1]]
    assert [event.deployment.generation for event in await events(redis)] == list(range(1, 21))


async def test_a_request_that_comes_again_gets_the_first_answer(store: DeploymentStore, redis: Redis) -> None:
    first = await promote(store, A, request_id="r1")
    assert await promote(store, A, request_id="r1") == first
    await promote(store, B)
    assert await promote(store, A, request_id="r1") == first
    back = await rollback(store, request_id="r2")
    assert await rollback(store, request_id="r2") == back
    assert await store.get(S) == back
    assert len(await events(redis)) == 3
    assert 0 < await redis.pttl(keys.request("r1")) <= 24 * 3600 * 1000


async def test_one_request_sent_many_times_at_once_is_carried_out_once(store: DeploymentStore, redis: Redis) -> None:
    results = await asyncio.gather(*(promote(store, A, request_id="r") for _ in range(20)))
    assert len(set(results)) == 1
    assert len(await events(redis)) == 1


async def test_the_script_itself_recognises_a_repetition(redis: Redis) -> None:
    # As redis-py repeats a call whose answer was lost: the state is no longer what the caller saw.
    async def step() -> scripts.Changed:
        return await scripts.change(
            redis,
            S,
            seen=b"",
            deployment=b"state",
            event=b"event",
            traceparent="",
            request_id="r",
            request_digest="digest",
        )

    assert await step() == scripts.Changed("OK", b"state")
    assert await step() == scripts.Changed("REPEATED", b"state")
    assert await redis.xlen(keys.EVENTS) == 1


async def test_a_request_id_with_other_content_is_refused(store: DeploymentStore, redis: Redis) -> None:
    await promote(store, A, request_id="r")
    others = [
        promote(store, B, request_id="r"),
        promote(store, A, request_id="r", reason="other"),
        promote(store, A, request_id="r", expected=0),
        promote(store, A, request_id="r", strategy="other"),
        rollback(store, request_id="r"),
        requests.claim(redis, "r", "register", A),
    ]
    for other in others:
        with pytest.raises(InvalidInputError) as caught:
            await other
        assert caught.value.reason == "REQUEST_ID_REUSED"
        assert [violation.field for violation in caught.value.violations] == ["request_id"]
    assert len(await events(redis)) == 1


async def test_a_claim_stands_for_its_content_only(store: DeploymentStore, redis: Redis) -> None:
    await requests.claim(redis, "r", "register", A)
    await requests.claim(redis, "r", "register", A)
    with pytest.raises(InvalidInputError):
        await requests.claim(redis, "r", "register", B)
    with pytest.raises(InvalidInputError):
        await promote(store, A, request_id="r")
    assert await store.get(S) is None


async def test_a_generation_is_above_the_floor_and_above_the_one_before(store: DeploymentStore) -> None:
    first = await store.promote(S, A, expected_generation=0, reason="", request_id="r", floor=6)
    assert first.generation == 7
    assert await store.promote(S, A, expected_generation=0, reason="", request_id="r", floor=9) == first
    assert (await store.promote(S, B, expected_generation=7, reason="", request_id="", floor=3)).generation == 8
    assert (await store.rollback(S, expected_generation=8, reason="", request_id="", floor=20)).generation == 21


async def test_what_cannot_be_rolled_back(store: DeploymentStore) -> None:
    with pytest.raises(NotFoundError) as unknown:
        await rollback(store)
    assert unknown.value.reason == "UNKNOWN_STRATEGY"
    await promote(store, A)
    with pytest.raises(FailedPreconditionError) as first:
        await rollback(store)
    assert first.value.reason == "NO_PREVIOUS"


async def test_a_watcher_sees_the_present_ones_then_each_change_at_once(store: DeploymentStore) -> None:
    await promote(store, A, strategy="alpha")
    await promote(store, A, strategy="beta")
    async with aclosing(store.watch()) as changes:
        present = [await anext(changes), await anext(changes)]
        assert [deployment.strategy for deployment in present] == ["alpha", "beta"]
        for generation in range(2, 12):
            waiting = asyncio.ensure_future(anext(changes))
            changed = await promote(store, f"{generation:064x}", strategy="beta")
            # Well below the second after which it would look by itself.
            assert await asyncio.wait_for(waiting, 0.8) == changed


async def test_a_watcher_that_is_slow_gets_the_last_state(store: DeploymentStore) -> None:
    async with aclosing(store.watch()) as changes:
        await promote(store, A)
        assert (await anext(changes)).generation == 1
        for generation in range(2, 22):
            await promote(store, f"{generation:064x}")
        seen = 1
        while seen < 21:
            found = await asyncio.wait_for(anext(changes), 5)
            assert found.generation > seen
            seen = found.generation


async def test_a_watcher_follows_a_state_that_went_back_and_a_number_that_came_again(
    store: DeploymentStore, redis: Redis
) -> None:
    await promote(store, A)
    kept = await redis.dump(keys.DEPLOYMENTS)
    async with aclosing(store.watch()) as changes:
        assert (await anext(changes)).champion_version == A
        await promote(store, B)
        assert (await asyncio.wait_for(anext(changes), 5)).champion_version == B
        await redis.restore(keys.DEPLOYMENTS, 0, kept, replace=True)  # as after a crash that lost the last write
        lost = await asyncio.wait_for(anext(changes), 5)
        assert (lost.champion_version, lost.generation) == (A, 1)
        await promote(store, C)
        again = await asyncio.wait_for(anext(changes), 5)
        assert (again.champion_version, again.generation) == (C, 2)


async def test_a_snapshot_comes_without_a_change(store: DeploymentStore) -> None:
    await promote(store, A)
    async with aclosing(store.snapshots()) as snapshots:
        for _ in range(4):
            (present,) = await asyncio.wait_for(anext(snapshots), 5)
            assert present.champion_version == A


async def test_a_watcher_ends_whenever_it_is_cancelled(redis_url: str) -> None:
    # At every step of its start: redis-py loses some cancellations on Python 3.11.
    async def watch(redis: Redis) -> None:
        async with aclosing(DeploymentStore(redis).watch()) as changes:
            async for _ in changes:
                pass

    for steps in range(60):
        async with connect(redis_url) as redis:
            await redis.ping()
            watching = asyncio.create_task(watch(redis))
            for _ in range(steps):
                await asyncio.sleep(0)
            watching.cancel()
            done, _ = await asyncio.wait({watching}, timeout=10)
            while not watching.done():  # a failure of this test must not hang the run
                watching.cancel()
                await asyncio.wait({watching}, timeout=0.1)
            assert done, f"cancelled after {steps} steps of the loop, and still watching"


async def test_deployments_survive_a_restart_of_redis_and_watchers_go_on(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        async with connect(server.url) as redis:
            store = DeploymentStore(redis)
            await promote(store, A, request_id="r1")
            async with aclosing(store.watch()) as changes:
                assert (await anext(changes)).generation == 1
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                # The scripts are gone from the server, the data is not.
                second = await promote(store, B)
                assert (second.generation, second.previous_version) == (2, A)
                assert await asyncio.wait_for(waiting, 10) == second
            assert (await promote(store, A, request_id="r1")).generation == 1
            assert await store.get(S) == second


async def suits(_: Deployment) -> None:
    """Every challenger suits."""


async def start_shadow(
    store: DeploymentStore, version: str, *, expected: int | None = None, request_id: str = "", reason: str = ""
) -> Deployment:
    return await store.start_shadow(
        S, version, suits, expected_generation=expected, reason=reason, request_id=request_id
    )


async def test_a_shadow_is_started_and_stopped_with_an_event_each(store: DeploymentStore, redis: Redis) -> None:
    await promote(store, A)
    started = await start_shadow(store, B, expected=1, request_id="r2", reason="newer")
    assert (started.champion_version, started.challenger_version, started.generation) == (A, B, 2)
    assert await store.get(S) == started
    replaced = await start_shadow(store, C, request_id="r3")
    assert replaced.challenger_version == C
    stopped = await store.stop_shadow(S, expected_generation=3, reason="seen", request_id="r4")
    assert (stopped.challenger_version, stopped.generation, stopped.reason) == ("", 4, "seen")
    assert [(event.type, event.request_id) for event in await events(redis)][1:] == [
        (deployment_pb2.EVENT_TYPE_SHADOW_STARTED, "r2"),
        (deployment_pb2.EVENT_TYPE_SHADOW_STARTED, "r3"),
        (deployment_pb2.EVENT_TYPE_SHADOW_STOPPED, "r4"),
    ]


async def test_a_shadow_that_is_asked_for_again_gives_the_first_answer(store: DeploymentStore, redis: Redis) -> None:
    await promote(store, A)
    first = await start_shadow(store, B, request_id="r")
    await promote(store, B)
    assert await start_shadow(store, B, request_id="r") == first, "though it is the champion by now"
    with pytest.raises(InvalidInputError) as reused:
        await start_shadow(store, C, request_id="r")
    assert reused.value.reason == "REQUEST_ID_REUSED"
    assert len(await events(redis)) == 3


async def test_a_challenger_that_does_not_suit_changes_nothing(store: DeploymentStore, redis: Redis) -> None:
    before = await promote(store, A)
    seen: list[Deployment] = []

    async def refuse(deployment: Deployment) -> None:
        seen.append(deployment)
        raise FailedPreconditionError("no", reason="NO")

    with pytest.raises(FailedPreconditionError):
        await store.start_shadow(S, B, refuse, expected_generation=None, reason="", request_id="r")
    assert [(each.champion_version, each.challenger_version) for each in seen] == [(A, B)]
    assert await store.get(S) == before
    assert not await redis.exists(keys.request("r"))
