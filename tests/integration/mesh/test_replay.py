"""`quantmesh replay` on a whole mesh: what the demo's job left behind is made again, and what was changed is found."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from examples.us_equities.deployment import STRATEGY, Operator
from examples.us_equities.job import Plan, Report
from examples.us_equities.job import run as run_job
from examples.us_equities.replay import SIGNALS, VECTORS
from modelstore.artifacts import ArtifactStore
from modelstore.onnx_model import OnnxModel
from quantmesh.streams.v1 import feature_pb2, signal_pb2
from runtime import grpc_client
from runtime.redis_client import connect
from streams import OutRecord, Producer, keys, load_catalog
from tests.mesh import QUANTMESH, RunningMesh, running_mesh
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
SESSIONS = 12
YEARS = ("--from", "2019-01-01", "--to", "2023-01-01")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh of this file's own: what it publishes and changes is nothing for the others."""
    with running_mesh(tmp_path_factory.mktemp("above") / "replay") as up:
        yield up


@pytest.fixture(scope="module")
def job(mesh: RunningMesh) -> Report:
    """The demo's job on it."""

    async def run() -> Report:
        plan = Plan.of(sessions=SESSIONS)
        redis = connect(mesh.redis_url)
        try:
            return await run_job(plan, plan.train(), mesh.addresses, redis, CATALOG, lambda counts: None)
        finally:
            await redis.aclose()

    return asyncio.run(run())


def replay(mesh: RunningMesh, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user who only knows the mesh's home, unless told more."""
    return subprocess.run(
        [QUANTMESH, "replay", *arguments],
        env={**mesh.environment, "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def replay_json(mesh: RunningMesh, *arguments: str, code: int = 0) -> Any:
    done = replay(mesh, *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_all_signals_are_reproduced_across_a_promotion_and_a_rollback(mesh: RunningMesh, job: Report) -> None:
    """The job's signals are all of its first model; the vectors are published again to be scored by both."""
    async with Redis.from_url(mesh.redis_url) as redis:

        async def vectors() -> list[bytes]:
            return [
                fields[keys.PAYLOAD]
                for partition in range(CATALOG.partitions)
                for _, fields in await redis.xrange(keys.entries(VECTORS, partition))
            ]

        async def count() -> int:
            return sum([await redis.xlen(keys.entries(SIGNALS, p)) for p in range(CATALOG.partitions)])

        recorded = [feature_pb2.FeatureVector.FromString(payload) for payload in await vectors()]
        usable = [v for v in recorded if set(v.statuses) == {feature_pb2.FEATURE_STATUS_OK}]
        producer = Producer(redis, CATALOG)

        async def score_again() -> None:
            before = await count()
            await producer.send_many([OutRecord(VECTORS, v.symbol, v.SerializeToString()) for v in usable])

            async def scored() -> bool:
                return await count() == before + len(usable)

            await until(scored)

        async with grpc_client.channel(mesh.addresses.mlops) as channel:
            operator = Operator(channel)
            await operator.promote(job.versions[1], "to be replayed")
            await score_again()
            await operator.roll_back("to be replayed")
            await score_again()
        total = await count()
    found = replay_json(mesh, *YEARS)
    assert found["sound"]
    assert (found["recorded"], found["reproduced"], found["lost"]) == (total, total, 0)
    assert total == 3 * len(usable) == 3 * SESSIONS * 20
    assert found["strategies"][STRATEGY]["without_signal"] == {}


def test_another_model_scored_on_the_same_inputs_is_that_model(mesh: RunningMesh, job: Report, tmp_path: Path) -> None:
    other = job.versions[1]
    out = tmp_path / "out.csv"
    found = replay_json(mesh, *YEARS, "--strategy", STRATEGY, "--model", other, "--out", str(out))
    assert found["sound"]
    model = OnnxModel.load(ArtifactStore(mesh.home / "models").load_onnx(other))
    direct: dict[tuple[str, str], float] = {}
    recorded: dict[tuple[str, str], set[float]] = {}

    async def read() -> None:
        async with Redis.from_url(mesh.redis_url) as redis:
            for partition in range(CATALOG.partitions):
                for _, fields in await redis.xrange(keys.entries(VECTORS, partition)):
                    v = feature_pb2.FeatureVector.FromString(fields[keys.PAYLOAD])
                    if set(v.statuses) == {feature_pb2.FEATURE_STATUS_OK}:
                        at = v.as_of.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                        direct[v.symbol, at] = float(model.predict(np.array([v.values]))[0])
                for _, fields in await redis.xrange(keys.entries(SIGNALS, partition)):
                    s = signal_pb2.Signal.FromString(fields[keys.PAYLOAD])
                    at = s.as_of.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    recorded.setdefault((s.symbol, at), set()).add(s.prediction)

    asyncio.run(read())
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == found["recorded"]
    assert {(line["symbol"], line["as_of"]) for line in lines} == set(direct)
    for line in lines:
        key = line["symbol"], line["as_of"]
        assert line["model"] == other
        assert float(line["prediction"]) == direct[key]
        assert float(line["recorded"]) in recorded[key]


async def test_a_signal_that_was_tampered_with_is_found(mesh: RunningMesh, job: Report) -> None:
    """The negative control: one bit of one prediction."""
    async with Redis.from_url(mesh.redis_url) as redis:
        key = keys.entries(SIGNALS, 2)
        kept = await redis.dump(key)
        assert kept is not None
        entries = await redis.xrange(key)
        changed = signal_pb2.Signal.FromString(entries[5][1][keys.PAYLOAD])
        changed.prediction = float(np.nextafter(changed.prediction, 1.0))
        await redis.delete(key)
        for number, (entry_id, fields) in enumerate(entries):
            payload = changed.SerializeToString() if number == 5 else fields[keys.PAYLOAD]
            await redis.xadd(key, {**fields, keys.PAYLOAD: payload}, id=entry_id)
        try:
            found = replay_json(mesh, *YEARS, code=1)
        finally:
            await redis.restore(key, 0, kept, replace=True)
    assert not found["sound"]
    assert found["reproduced"] == found["recorded"] - 1
    (case,) = found["cases"]
    assert (case["what"], case["entry_id"], case["symbol"]) == ("differs", entries[5][0].decode(), changed.symbol)
    assert case["detail"].startswith("prediction: recorded ")
    assert replay_json(mesh, *YEARS)["sound"]


def test_a_person_reads_a_table_and_what_is_there(mesh: RunningMesh, job: Report) -> None:
    done = replay(mesh, *YEARS)
    assert done.returncode == 0
    assert "recorded signals reproduced (2019-01-01T00:00:00.000000Z to 2023-01-01" in done.stdout
    nothing = replay(mesh, "--from", "2030-01-01", "--to", "2031-01-01")
    assert nothing.returncode == 1
    assert "features.pit holds vectors as of 2018-01-" in nothing.stdout
    assert "keeps them for 24 hours" in nothing.stdout
    assert "There was nothing to reproduce." in nothing.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--to", "2020-01-01"], 2, "Missing option '--from'"),
        (["--from", "soon", "--to", "2020-01-01"], 2, "Invalid value for --from: 'soon' is no instant"),
        (["--from", "2019-01-01", "--to", "2020-01-01T00:00"], 2, "Invalid value for --to: '2020-01-01T00:00' has no"),
        (
            ["--from", "2020-01-01", "--to", "2020-01-01"],
            2,
            "Invalid value for --to: 2020-01-01T00:00:00.000000Z is",
        ),
        ([*YEARS, "--model", "abc"], 2, "Invalid value for --model: 'abc' is no digest"),
        ([*YEARS, "--strategy", "A B"], 2, "Invalid value for --strategy: 'A B' is no name"),
        ([*YEARS, "--out", "out.txt"], 2, "Invalid value for --out: out.txt must end in .csv or .parquet"),
        ([*YEARS, "--model", "0" * 64], 1, "no model has version"),
        ([*YEARS, "--strategy", "nobody"], 1, "strategy 'nobody' has neither signals nor deployments"),
    ],
)
def test_bad_input_names_the_option(mesh: RunningMesh, job: Report, arguments: list[str], code: int, says: str) -> None:
    done = replay(mesh, *arguments)
    assert done.returncode == code
    assert says in done.stderr


def test_models_are_those_of_the_mesh_whose_redis_it_is(mesh: RunningMesh, job: Report, tmp_path: Path) -> None:
    """As in a terminal that was set up for the demo's Redis, with the usual home, which is above the demo's."""
    url = {"QUANTMESH_REDIS_URL": mesh.redis_url}
    assert replay(mesh, *YEARS, QUANTMESH_HOME=str(mesh.home.parent), **url).returncode == 0
    elsewhere = replay(mesh, *YEARS, QUANTMESH_HOME=str(tmp_path), **url)
    assert elsewhere.returncode == 1
    assert "unknown_model" in elsewhere.stdout
    assert f"Models are looked for in {tmp_path}/models" in elsewhere.stdout


def test_without_a_mesh_it_says_how_to_have_one(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUANTMESH_")}
    done = subprocess.run(
        [QUANTMESH, "replay", *YEARS],
        env={**kept, "QUANTMESH_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no mesh runs on" in done.stderr
