"""From feature vectors to signals: each once, with its receipt, and none of a model that was rolled back."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from inference_svc.determinism import runtime_identity
from modelstore.deployments import Deployment, DeploymentStore
from modelstore.replicas import ReplicaBoard
from quantmesh.streams.v1 import feature_pb2, signal_pb2
from streams import OutRecord, Producer, keys, raise_fences, scripts
from streams.vector_hash import hash_of
from tests.integration.inference_svc.models import expected, register, replica, ridge, rows, table
from tests.integration.inference_svc.vectors import (
    CATALOG,
    STREAM,
    consumed,
    dead_letters,
    publish,
    signals,
    vector,
)
from tests.waiting import until

TRACE = "0123456789abcdef0123456789abcdef"


async def promote(deployments: DeploymentStore, version: str, strategy: str = "momentum") -> Deployment:
    return await deployments.promote(strategy, version, expected_generation=None, reason="", request_id="")


def skipped(reason: str) -> float:
    return REGISTRY.get_sample_value("quantmesh_inference_vectors_skipped_total", {"reason": reason}) or 0.0


async def test_every_vector_gives_one_signal_in_order_whichever_replica_scores_it(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await promote(deployments, register(tmp_path, ridge(0.0)))
    matrix = rows(3000).tolist()
    await publish(redis, [vector(n, row) for n, row in enumerate(matrix[:2000])])

    async def found(count: int) -> bool:
        return len(await signals(redis, "momentum")) >= count

    async with replica(tmp_path, redis_url):
        await until(lambda: found(200))
        async with replica(tmp_path, redis_url):  # takes over half of the partitions
            await publish(redis, [vector(n, row) for n, row in enumerate(matrix) if n >= 2000])
            await until(lambda: found(2500))
        await until(lambda: found(3000))
    made = await signals(redis, "momentum")
    assert [id_ for id_, times in Counter(s.signal_id for s in made).items() if times > 1] == []
    assert len(made) == 3000
    by_symbol: dict[str, list[int]] = {}
    for signal in made:
        by_symbol.setdefault(signal.symbol, []).append(signal.as_of.seconds)
    assert all(times == sorted(times) for times in by_symbol.values())


async def test_a_signal_carries_prediction_direction_and_receipt(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    version = register(tmp_path, ridge(0.0), threshold=0.05)
    await promote(deployments, register(tmp_path, ridge(9.0)))
    generation = (await promote(deployments, version)).generation
    given = [vector(0, [1.0, 0.0, 1.0]), vector(1, [-1.0, 0.0, -1.0]), vector(2, [0.1, 0.0, 0.1])]
    async with replica(tmp_path, redis_url):
        await publish(redis, given, f"00-{TRACE}-00000000000000aa-01")
        await publish(redis, [vector(3, [0.0, 0.0, 0.0])])

        async def all_there() -> bool:
            return len(await signals(redis, "momentum")) == 4

        await until(all_there)
    made = {signal.symbol: signal for signal in await signals(redis, "momentum")}
    assert [made[v.symbol].direction for v in given] == [
        signal_pb2.DIRECTION_LONG,
        signal_pb2.DIRECTION_SHORT,
        signal_pb2.DIRECTION_FLAT,
    ]
    for each in given:
        signal = made[each.symbol]
        assert signal.prediction == pytest.approx(expected(0.0, each.values), abs=1e-3)
        assert (signal.strategy, signal.event_time, signal.as_of) == ("momentum", each.event_time, each.as_of)
        assert signal.receipt == signal_pb2.Receipt(
            vector_hash=each.vector_hash,
            max_available_at=each.max_available_at,
            model_digest=version,
            generation=generation,
            trace_id=TRACE,
            batch_rows=1,
            runtime=runtime_identity(),
        )
    assert made["SYM3"].receipt.trace_id == ""
    entries = await redis.xrange(keys.entries("signals.momentum", CATALOG.partition_of("SYM0")))
    assert TRACE in entries[0][1][keys.TRACEPARENT].decode()


async def test_each_strategy_scores_the_vectors_of_its_feature_set(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await promote(deployments, register(tmp_path, ridge(1.0)))
    await promote(deployments, register(tmp_path, ridge(2.0), strategy="carry"), "carry")
    await promote(deployments, register(tmp_path, ridge(3.0), strategy="fx", feature_set="fx_test"), "fx")
    before = skipped("no_model")
    async with replica(tmp_path, redis_url):
        await publish(redis, [vector(n, [0.0, 0.0, 0.0]) for n in range(8)])
        await publish(redis, [vector(n, [0.0, 0.0, 0.0], feature_set="fx_test") for n in range(4)])
        await publish(redis, [vector(n, [0.0, 0.0, 0.0], feature_set="nobody's") for n in range(2)])

        async def all_consumed() -> bool:
            return await consumed(redis) == 14

        await until(all_consumed)
    assert [len(await signals(redis, s)) for s in ("momentum", "carry", "fx")] == [8, 8, 4]
    assert {round(s.prediction) for s in await signals(redis, "carry")} == {2}
    assert skipped("no_model") - before == 2


async def test_unusable_vectors_give_no_signal_and_false_ones_are_dead_letters(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await promote(deployments, register(tmp_path, ridge(0.0)))
    zeros = [0.0, 0.0, 0.0]
    other_hash, changed = vector(5, zeros), vector(9, zeros)
    other_hash.vector_hash = bytes(32)
    changed.values[0] = 1e-9
    hidden = vector(6, zeros)
    hidden.value_available_at_us[1] += 10_000_000  # one value is younger than the vector claims
    no_event_time = vector(10, zeros)
    no_event_time.ClearField("event_time")
    no_event_time.vector_hash = hash_of(no_event_time)
    bad = {
        "LOOK_AHEAD": [vector(0, zeros, available_after_us=1), hidden],
        "FEATURE_COUNT_MISMATCH": [vector(1, [0.0])],
        "NON_FINITE_FEATURE": [vector(2, [0.0, math.nan, 0.0])],
        "NON_FINITE_PREDICTION": [vector(3, [1e308, -1e308, 1e308])],
        "INVALID_VECTOR": [no_event_time],
        "VECTOR_HASH_MISMATCH": [other_hash, changed],
    }
    before = {reason: skipped(reason) for reason in ("missing", "stale")}
    good = [vector(n, zeros) for n in range(32, 48)]
    async with replica(tmp_path, redis_url):
        await publish(redis, [each for vectors in bad.values() for each in vectors])
        await publish(redis, [vector(7, [math.nan, 0.0, 0.0], status=feature_pb2.FEATURE_STATUS_MISSING)])
        await publish(redis, [vector(8, zeros, status=feature_pb2.FEATURE_STATUS_STALE)] * 2)
        other = next(s for s in map("X{}".format, range(99)) if CATALOG.partition_of(s) != CATALOG.partition_of("SYM0"))
        astray = vector(0, zeros)
        astray.symbol = other
        astray.vector_hash = hash_of(astray)
        await Producer(redis, CATALOG).send_many(
            [
                OutRecord(STREAM, "SYM0", b"\xff\xff not protobuf"),
                OutRecord(STREAM, "SYM0", astray.SerializeToString()),
            ]
        )
        await publish(redis, good)

        async def all_consumed() -> bool:
            return await consumed(redis) == sum(map(len, bad.values())) + 3 + 2 + 16

        await until(all_consumed)
    assert len(await signals(redis, "momentum")) == len(good)
    dead = await dead_letters(redis)
    assert Counter(letter.reason for letter in dead) == {
        **{reason: len(vectors) for reason, vectors in bad.items()},
        "UNPARSABLE": 1,
        "WRONG_PARTITION": 1,
    }
    payloads = {letter.payload for letter in dead}
    assert {v.SerializeToString() for vectors in bad.values() for v in vectors} < payloads
    assert {reason: skipped(reason) - count for reason, count in before.items()} == {"missing": 1, "stale": 2}


async def test_a_vector_that_makes_a_model_fail_stops_nobody(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await promote(deployments, register(tmp_path, table(10.0, 20.0)))
    await promote(deployments, register(tmp_path, ridge(1.0), strategy="carry"), "carry")
    given = [vector(n, [float(n % 2), 0.0, 0.0]) for n in range(64)]
    given[20] = vector(20, [7.0, 0.0, 0.0])  # the table has no such entry
    await publish(redis, given)
    async with replica(tmp_path, redis_url):

        async def all_consumed() -> bool:
            return await consumed(redis) == 64

        await until(all_consumed)
    assert Counter(s.prediction for s in await signals(redis, "momentum")) == {10.0: 31, 20.0: 32}
    assert len(await signals(redis, "carry")) == 64
    (letter,) = await dead_letters(redis)
    assert (letter.reason, letter.payload) == ("MODEL_FAILED", given[20].SerializeToString())


async def test_once_a_rollback_has_answered_no_signal_of_the_demoted_model_appears(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    first, second = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    await promote(deployments, first)
    await promote(deployments, second)
    over = asyncio.Event()
    published = 0

    async def replay() -> None:
        nonlocal published
        while not over.is_set():
            await publish(redis, [vector(n, [0.0, 0.0, 0.0]) for n in range(published, published + 64)])
            published += 64

    async with replica(tmp_path, redis_url):
        replaying = asyncio.create_task(replay())
        for _ in range(6):
            deployed = await deployments.rollback("momentum", expected_generation=None, reason="", request_id="")
            await raise_fences(redis, CATALOG, "momentum", deployed.generation)
            answered = {  # what stands there when the rollback answers
                p: await redis.xlen(keys.entries("signals.momentum", p)) for p in range(CATALOG.partitions)
            }
            until_now = published

            async def goes_on(reached: int = until_now) -> bool:
                return await consumed(redis) > reached + 64

            await until(goes_on)
            for partition, length in answered.items():
                entries = await redis.xrange(keys.entries("signals.momentum", partition))
                late = [signal_pb2.Signal.FromString(f[keys.PAYLOAD]) for _, f in entries[length:]]
                assert all(s.receipt.generation >= deployed.generation for s in late)
        over.set()
        await replaying

        async def all_consumed() -> bool:
            return await consumed(redis) == published

        await until(all_consumed)
    made = await signals(redis, "momentum")
    assert len({(s.symbol, s.as_of.seconds) for s in made}) == len(made) == published
    assert len({s.receipt.generation for s in made}) > 3


async def test_a_fence_that_is_ahead_stops_the_signals_until_that_generation_is_served(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    first, second = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    await promote(deployments, first)
    async with replica(tmp_path, redis_url):
        for partition in range(CATALOG.partitions):
            await scripts.raise_fence(redis, "momentum", partition, 2)
        await publish(redis, [vector(n, [0.0, 0.0, 0.0]) for n in range(64)])

        async def refused() -> bool:
            labels = {"stream": STREAM, "group": "trading_service", "cause": "FENCED"}
            return (REGISTRY.get_sample_value("quantmesh_stream_commits_refused_total", labels) or 0) > 0

        await until(refused)
        assert await signals(redis, "momentum") == []
        await promote(deployments, second)

        async def all_there() -> bool:
            return len(await signals(redis, "momentum")) == 64

        await until(all_there)
    assert {s.receipt.generation for s in await signals(redis, "momentum")} == {2}


async def test_history_from_before_the_first_promotion_does_not_pile_up(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    async with replica(tmp_path, redis_url):
        await publish(redis, [vector(n, [0.0, 0.0, 0.0]) for n in range(64)])

        async def first_consumed() -> bool:
            return await consumed(redis) == 64

        await until(first_consumed)
        deployed = await promote(deployments, register(tmp_path, ridge(1.0)))
        assert all(s.swapped for s in await ReplicaBoard(redis).wait_for(deployed, 10.0))
        await publish(redis, [vector(n, [0.0, 0.0, 0.0]) for n in range(64, 128)])

        async def all_there() -> bool:
            return len(await signals(redis, "momentum")) == 64

        await until(all_there)
    assert min(s.as_of.seconds for s in await signals(redis, "momentum")) == vector(64, [0.0, 0.0, 0.0]).as_of.seconds
