"""Recorded signals are made again from recorded vectors, and whatever was changed is found."""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from inference_svc.replay.report import Report
from inference_svc.replay.run import Request, replay
from inference_svc.replay.sinks import Row, opened
from inference_svc.signals import signal_id
from modelstore import keys as deployment_keys
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import Deployment, DeploymentStore
from modelstore.layouts import FeatureLayouts
from modelstore.onnx_model import OnnxModel
from quantmesh.streams.v1 import feature_pb2, signal_pb2
from runtime.errors import FailedPreconditionError, NotFoundError
from runtime.times import to_us
from streams import keys, raise_fences
from streams.operations.groups import drop_group
from tests.integration.inference_svc.models import boosted, register, replica, ridge, rows, table
from tests.integration.inference_svc.test_held import Artifact, count
from tests.integration.inference_svc.vectors import CATALOG, STREAM, consumed, publish, signals, vector
from tests.waiting import until

ALL = Request(0, 10**17)
STALE, MISSING = feature_pb2.FEATURE_STATUS_STALE, feature_pb2.FEATURE_STATUS_MISSING


class Rows:
    def __init__(self) -> None:
        self.all: list[Row] = []

    def write(self, row: Row) -> None:
        self.all.append(row)


async def replayed(redis: Redis, home: Path, request: Request = ALL, sink: Rows | None = None) -> Report:
    return await replay(redis, CATALOG, ArtifactStore(home / "models"), request, sink or Rows())


async def promote(deployments: DeploymentStore, redis: Redis, version: str, strategy: str = "momentum") -> Deployment:
    deployed = await deployments.promote(strategy, version, expected_generation=None, reason="", request_id="")
    await raise_fences(redis, CATALOG, strategy, deployed.generation)
    return deployed


async def all_consumed(redis: Redis, expected: int) -> None:
    async def reached() -> bool:
        return await consumed(redis) == expected

    await until(reached)


async def a_days_work(
    home: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, **settings: object
) -> tuple[str, str]:
    """300 vectors scored by two strategies: one is promoted twice and rolled back. Returns its two versions."""
    first, second = register(home, ridge(1.0)), register(home, boosted()[1])
    await promote(deployments, redis, first)
    await promote(deployments, redis, register(home, ridge(3.0), strategy="carry"), "carry")
    matrix = rows(300).tolist()
    async with replica(home, redis_url, **settings):
        await publish(redis, [vector(n, row) for n, row in enumerate(matrix[:100])])
        await all_consumed(redis, 100)
        await promote(deployments, redis, second)
        await publish(redis, [vector(100 + n, row) for n, row in enumerate(matrix[100:200])])
        await all_consumed(redis, 200)
        back = await deployments.rollback("momentum", expected_generation=None, reason="", request_id="")
        await raise_fences(redis, CATALOG, "momentum", back.generation)
        await publish(redis, [vector(200 + n, row) for n, row in enumerate(matrix[200:])])
        await all_consumed(redis, 300)
    return first, second


async def rewrite(
    redis: Redis, stream: str, partition: int, number: int, change: Callable[[bytes], bytes | None]
) -> None:
    """Change the payload of one entry, or remove it (None), as one who has the server's password could."""
    key = keys.entries(stream, partition)
    entries = await redis.xrange(key)
    await redis.delete(key)
    for index, (entry_id, fields) in enumerate(entries):
        payload = change(fields[keys.PAYLOAD]) if index == number else fields[keys.PAYLOAD]
        if payload is not None:
            await redis.xadd(key, {**fields, keys.PAYLOAD: payload}, id=entry_id)


def of_signal(change: Callable[[signal_pb2.Signal], object]) -> Callable[[bytes], bytes]:
    def changed(payload: bytes) -> bytes:
        signal = signal_pb2.Signal.FromString(payload)
        change(signal)
        return signal.SerializeToString()

    return changed


@pytest.mark.parametrize("deterministic", [True, False], ids=["alone", "in-batches"])
async def test_a_day_with_a_promotion_and_a_rollback_is_reproduced_to_the_last_bit(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, deterministic: bool
) -> None:
    versions = await a_days_work(tmp_path, redis_url, redis, deployments, deterministic=deterministic)
    sink = Rows()
    report = await replayed(redis, tmp_path, sink=sink)
    assert report.sound
    assert {name: dict(each.signals) for name, each in report.strategies.items()} == {
        "momentum": {"reproduced": 300},
        "carry": {"reproduced": 300},
    }
    assert (report.vectors, report.lost, report.cases) == (300, 0, [])
    assert all(row.prediction == row.recorded and row.model == row.recorded_model for row in sink.all)
    assert {row.model for row in sink.all if row.strategy == "momentum"} == set(versions)
    calls = Counter(signal.receipt.batch_rows for signal in await signals(redis, "momentum"))
    assert (set(calls) == {1}) == deterministic, "the test is of calls of several rows, too"


async def test_a_range_and_a_strategy_are_kept_to(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments, deterministic=False)
    from_us, to_us = to_us_of(50), to_us_of(150)
    report = await replayed(redis, tmp_path, Request(from_us, to_us, "carry"))
    assert report.sound
    assert {name: each.recorded for name, each in report.strategies.items()} == {"carry": 100}
    assert (report.oldest_us, report.newest_us) == (to_us_of(0), to_us_of(299))
    nothing = await replayed(redis, tmp_path, Request(1, 2))
    assert not nothing.sound, "nothing reproduced is no success"
    with pytest.raises(NotFoundError, match="carry, momentum"):
        await replayed(redis, tmp_path, Request(1, 2, "fx"))


def as_text(of: signal_pb2.Signal | feature_pb2.FeatureVector) -> str:
    return of.as_of.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def to_us_of(number: int) -> int:
    return to_us(vector(number, [0.0]).as_of)


def _nudge(signal: signal_pb2.Signal) -> None:
    signal.prediction = float(np.nextafter(signal.prediction, np.inf))


def _other_generation(signal: signal_pb2.Signal) -> None:
    signal.receipt.generation = 3
    signal.signal_id = signal_id("momentum", signal.receipt.vector_hash, signal.receipt.model_digest, 3)


def _other_vector(signal: signal_pb2.Signal) -> None:
    signal.receipt.vector_hash = bytes(32)


def _unknown_model(signal: signal_pb2.Signal) -> None:
    signal.receipt.model_digest = "0" * 64


@pytest.mark.parametrize(
    ("change", "outcome", "detail", "lost"),
    [
        (of_signal(_nudge), "differs", "prediction", 0),
        (of_signal(lambda s: setattr(s, "direction", signal_pb2.DIRECTION_FLAT)), "differs", "direction", 0),
        (of_signal(_other_generation), "differs", "receipt.generation", 0),
        (of_signal(_other_vector), "no_vector", "hash", 1),
        (of_signal(_unknown_model), "unknown_model", "no model has version", 0),
        (lambda _: b"\xff\xff", "unreadable", "is no Signal", 1),
        (lambda _: None, "", "", 1),
    ],
    ids=["one-bit", "direction", "generation", "vector-hash", "digest", "bytes", "removed"],
)
async def test_a_signal_that_was_tampered_with_is_found(
    tmp_path: Path,
    redis_url: str,
    redis: Redis,
    deployments: DeploymentStore,
    change: Callable[[bytes], bytes | None],
    outcome: str,
    detail: str,
    lost: int,
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)
    await rewrite(redis, "signals.momentum", 1, 40, change)
    report = await replayed(redis, tmp_path)
    assert not report.sound
    found = report.strategies["momentum"]
    recorded = 300 if outcome else 299
    assert found.signals == Counter({"reproduced": 299}) + Counter({outcome: recorded - 299})
    assert report.lost == lost
    if outcome:
        (case,) = (case for case in report.cases if case.what == outcome)
        assert detail in case.detail
        assert (case.strategy, case.partition) == ("momentum", 1)
    assert report.strategies["carry"].signals == {"reproduced": 300}


async def test_a_vector_that_was_tampered_with_is_found(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)

    def changed(payload: bytes) -> bytes:
        message = feature_pb2.FeatureVector.FromString(payload)
        message.values[0] += 1e-9
        return message.SerializeToString()

    await rewrite(redis, STREAM, 2, 10, changed)
    report = await replayed(redis, tmp_path)
    assert report.refused == {"VECTOR_HASH_MISMATCH": 1}
    assert {name: dict(each.signals) for name, each in report.strategies.items()} == {
        "momentum": {"reproduced": 299, "differs": 1},
        "carry": {"reproduced": 299, "differs": 1},
    }


async def test_signals_whose_vectors_retention_took_are_told_from_all_others(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments, deterministic=False)
    for partition in range(CATALOG.partitions):
        key = keys.entries(STREAM, partition)
        await redis.xtrim(key, maxlen=await redis.xlen(key) - 20, approximate=False)
    report = await replayed(redis, tmp_path, Request(0, 10**17, "momentum"))
    found = report.strategies["momentum"].signals
    assert found["vector_trimmed"] == 20 * CATALOG.partitions
    assert found["call_trimmed"] > 0, "a call of several rows lost some of them"
    assert found["reproduced"] == 300 - found["vector_trimmed"] - found["call_trimmed"]
    assert not report.sound
    assert report.oldest_us is not None
    assert report.oldest_us > to_us_of(0)
    # From where the vectors begin, all is well.
    later = await replayed(redis, tmp_path, Request(to_us_of(250), 10**17, "momentum"))
    assert later.sound


async def test_a_vector_without_a_signal_says_why(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    zeros = [0.0, 0.0, 0.0]
    async with replica(tmp_path, redis_url):
        await publish(redis, [vector(n, zeros) for n in range(8)])  # nobody has a model yet
        await all_consumed(redis, 8)
    bad = register(tmp_path, table(10.0, 20.0))
    await promote(deployments, redis, bad)
    other_set = vector(20, zeros, feature_set="another")
    too_short = vector(21, [0.0])
    given = [
        *(vector(n, zeros) for n in range(8, 16)),
        vector(16, [7.0, 0.0, 0.0]),  # the table has no such entry
        vector(17, zeros, status=STALE),
        vector(18, [float("nan"), 0.0, 0.0], status=MISSING),
        vector(19, zeros, available_after_us=1),
        other_set,
        too_short,
    ]
    async with replica(tmp_path, redis_url):
        await publish(redis, given)
        await all_consumed(redis, 8 + len(given))
    artifact = Artifact(tmp_path, register(tmp_path, ridge(1.0)))
    artifact.hide()
    await promote(deployments, redis, artifact.version)
    async with replica(tmp_path, redis_url):
        await publish(redis, [vector(n, zeros) for n in range(22, 30)])
        await all_consumed(redis, 8 + len(given) + 8)
    artifact.show()
    await publish(redis, [vector(n, zeros) for n in range(30, 33)])  # after everybody has gone
    report = await replayed(redis, tmp_path)
    found = report.strategies["momentum"]
    assert found.signals == {"reproduced": 8}
    assert found.without_signal == {
        "no_model": 8,
        "MODEL_FAILED": 1,
        "stale": 1,
        "missing": 1,
        "FEATURE_COUNT_MISMATCH": 1,
        "held": 8,
        "waiting": 3,
    }
    assert report.refused == {"LOOK_AHEAD": 1}
    assert report.sound, "none of these is a signal that should be there"


async def test_signals_that_retention_took_are_not_missed(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)
    for partition in range(CATALOG.partitions):
        key = keys.entries("signals.momentum", partition)
        await redis.xtrim(key, maxlen=await redis.xlen(key) - 7, approximate=False)
    report = await replayed(redis, tmp_path)
    assert report.strategies["momentum"].without_signal == {"signal_trimmed": 7 * CATALOG.partitions}
    assert report.sound


async def test_a_second_signal_of_a_vector_is_found(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)
    key = keys.entries("signals.momentum", 0)
    await redis.xadd(key, (await redis.xrange(key, count=1))[0][1])
    report = await replayed(redis, tmp_path)
    assert report.strategies["momentum"].signals == {"reproduced": 300, "repeated": 1}
    assert not report.sound


async def test_a_vector_that_came_twice_has_two_signals_and_both_are_reproduced(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await promote(deployments, redis, register(tmp_path, ridge(1.0)))
    async with replica(tmp_path, redis_url):
        await publish(redis, [vector(n, [0.0, 0.0, 0.0]) for n in (*range(8), *range(8))])
        await all_consumed(redis, 16)
    report = await replayed(redis, tmp_path)
    assert report.strategies["momentum"].signals == {"reproduced": 16}


async def test_held_signals_are_reproduced_like_the_others(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    version = register(tmp_path, ridge(1.0))
    artifact = Artifact(tmp_path, version)
    artifact.hide()
    await promote(deployments, redis, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    await promote(deployments, redis, version)
    matrix = rows(200).tolist()
    async with replica(tmp_path, redis_url, deterministic=False):
        await publish(redis, [vector(n, row) for n, row in enumerate(matrix)])
        await count(redis, "carry", 200)
        artifact.show()
        await count(redis, "momentum", 200)
    report = await replayed(redis, tmp_path)
    assert report.sound
    assert report.strategies["momentum"].signals == {"reproduced": 200}


async def test_a_replay_beside_a_mesh_at_work_finds_nothing_that_is_not_there(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await promote(deployments, redis, register(tmp_path, ridge(1.0)))
    over = asyncio.Event()
    published = 0

    async def load() -> None:
        nonlocal published
        while not over.is_set():
            await publish(redis, [vector(n, [0.1, 0.2, 0.3]) for n in range(published, published + 16)])
            published += 16
            await asyncio.sleep(0.002)

    async with replica(tmp_path, redis_url):
        loading = asyncio.create_task(load())
        await count(redis, "momentum", 500)
        for _ in range(5):
            report = await replayed(redis, tmp_path)
            assert report.sound, report
            assert report.recorded >= 500
        over.set()
        await loading


async def test_any_model_is_scored_on_the_same_inputs(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)
    await publish(redis, [vector(300, [0.0, 0.0, 0.0], status=STALE), vector(301, [0.5, 0.0, 0.0])])
    onnx = ridge(42.0)
    other = register(tmp_path, onnx, strategy="research")
    path = tmp_path / "out.csv"
    with opened(path) as sink:
        report = await replay(
            redis, CATALOG, ArtifactStore(tmp_path / "models"), Request(0, 10**17, "momentum", other), sink
        )
    assert report.sound
    assert report.model is not None
    assert (report.model.scored, report.model.faults) == (301, {"stale": 1})
    model = OnnxModel.load(onnx)
    direct = {
        as_text(vector(n, row)): float(model.predict(np.array([row]))[0])
        for n, row in enumerate([*rows(300).tolist(), [], [0.5, 0.0, 0.0]])
        if row
    }
    recorded = {as_text(signal): signal for signal in await signals(redis, "momentum")}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 301
    assert {line["as_of"]: float(line["prediction"]) for line in lines} == direct
    for line in lines:
        signal = recorded.get(line["as_of"])
        assert line["model"] == other
        assert line["recorded"] == (repr(signal.prediction) if signal else "")
        assert line["recorded_model"] == (signal.receipt.model_digest if signal else "")
        assert (line["outcome"], line["strategy"]) == (("reproduced", "momentum") if signal else ("", ""))


async def test_a_model_that_is_not_for_these_vectors_is_refused(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)
    other_set = register(tmp_path, ridge(1.0), feature_set="fx_daily")
    with pytest.raises(FailedPreconditionError, match="'fx_daily'; those of the range are of equities_test") as caught:
        await replayed(redis, tmp_path, Request(0, 10**17, None, other_set))
    assert caught.value.reason == "FEATURE_SET_MISMATCH"
    with pytest.raises(NotFoundError) as unknown:
        await replayed(redis, tmp_path, Request(0, 10**17, None, "0" * 64))
    assert unknown.value.reason == "UNKNOWN_VERSION"
    await FeatureLayouts(redis).publish("equities_test", ["rsi_14d", "momentum_20d", "volatility_20d"])
    with pytest.raises(FailedPreconditionError) as layout:
        await replayed(redis, tmp_path, Request(0, 10**17, None, register(tmp_path, ridge(1.0))))
    assert layout.value.reason == "FEATURE_LAYOUT_MISMATCH"


async def test_without_the_history_of_deployments_signals_are_still_reproduced(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)
    await redis.delete(deployment_keys.EVENTS)
    report = await replayed(redis, tmp_path)
    assert report.sound
    assert report.reproduced == 600


async def test_a_replay_writes_nothing(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore
) -> None:
    await a_days_work(tmp_path, redis_url, redis, deployments)
    await drop_group(redis, CATALOG.stream("signals.carry"), "execution_service", CATALOG.partitions)

    async def state() -> dict[bytes, bytes | None]:
        return {key: await redis.dump(key) for key in sorted(await redis.keys("*"))}

    before = await state()
    assert (await replayed(redis, tmp_path)).sound
    assert await state() == before
