"""Rollback after rollback, under load, while replicas are paused and killed: what has answered is final."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from inference_svc.replay.run import Request, replay
from inference_svc.replay.sinks import Nowhere
from mlops_svc.app import build
from mlops_svc.fences import Fences
from mlops_svc.settings import MlopsSettings
from modelstore.artifacts import ArtifactStore
from quantmesh.mlops.v1 import mlops_service_pb2 as messages
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from quantmesh.streams.v1 import signal_pb2
from runtime.grpc_client import channel
from runtime.tethered import tethered
from streams import keys
from tests.integration.inference_svc.models import register, ridge
from tests.integration.inference_svc.vectors import CATALOG, consumed, publish, signals, vector
from tests.waiting import until

if TYPE_CHECKING:  # the stubs name it, the generated code does not have it
    from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceAsyncStub

REPLICAS = 3
ROLLBACKS = 24
PACE = 32
"""Vectors of one publication, every few milliseconds."""

ZEROS = [0.0, 0.0, 0.0]


class Replicas:
    """Processes of inference_svc that are killed and started again."""

    def __init__(self, home: Path, redis_url: str) -> None:
        self._home = home
        self._environment = {
            **os.environ,
            "QUANTMESH_HOME": str(home),
            "QUANTMESH_REDIS_URL": redis_url,
            "QUANTMESH_PARTITIONS": str(CATALOG.partitions),
            "QUANTMESH_INFERENCE_PORT": "0",
            "QUANTMESH_INFERENCE_METRICS_PORT": "0",
            "INFER_BATCH_SIZE": "8",
            "INFER_LISTENER": "grpcio",  # SIGSTOP is to halt the replica itself, not the keeper of its Envoy
        }
        self.processes = [self._start(number) for number in range(REPLICAS)]
        self.kills = 0

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        with (self._home / f"replica{number}.log").open("ab") as log:
            return subprocess.Popen(
                tethered([sys.executable, "-P", "-m", "inference_svc"]),
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, number: int) -> None:
        """SIGKILL one, and start another in its place."""
        self.processes[number].kill()
        self.processes[number].wait()
        self.processes[number] = self._start(number)
        self.kills += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP all, in the middle of whatever they do, and let them go on with that afterwards."""
        for process in self.processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self.processes:
                process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """SIGTERM all; each must end cleanly, but one that has only just been started may not know the signal yet."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(20) for process in self.processes]
        assert set(codes) <= {0, -signal.SIGTERM}, codes


async def lengths(redis: Redis) -> list[int]:
    return [await redis.xlen(keys.entries("signals.momentum", p)) for p in range(CATALOG.partitions)]


async def roll_back(stub: MlopsServiceAsyncStub, number: int) -> int:
    """Roll back by the RPC; returns the generation that the answer names."""
    request = messages.RollbackRequest(strategy="momentum", request_id=f"rollback-{number}")
    return (await stub.Rollback(request, timeout=20)).deployment.generation


@dataclass
class Outcome:
    """What a storm of rollbacks left behind."""

    versions: list[str]
    published: int
    generations: set[int]
    """Those that the answers named."""
    late: list[int]
    """Generations of signals that came after the answer of a rollback that demoted them."""


async def storm(home: Path, redis_url: str, redis: Redis, rollbacks: int, seed: int) -> Outcome:
    """Roll back again and again under load, while replicas are paused and killed."""
    rng = random.Random(seed)
    versions = [register(home, ridge(level)) for level in (1.0, 2.0)]
    settings = MlopsSettings(
        home=home, redis_url=redis_url, partitions=CATALOG.partitions, mlops_port=0, swap_wait_s=0.2
    )
    mlops = await build(settings)
    published = 0
    over = asyncio.Event()

    async def load() -> None:
        nonlocal published
        while not over.is_set():
            await publish(redis, [vector(n, ZEROS) for n in range(published, published + PACE)])
            published += PACE
            await asyncio.sleep(0.004)

    async def made(reached: int) -> None:
        async def there() -> bool:
            return sum(await lengths(redis)) >= reached

        await until(there, 30)

    answered: list[tuple[int, list[int]]] = []
    async with channel(mlops.address) as opened:
        stub: MlopsServiceAsyncStub = MlopsServiceStub(opened)
        for version in versions:
            await stub.Promote(messages.PromoteRequest(strategy="momentum", version=version), timeout=20)
        replicas = Replicas(home, redis_url)
        try:
            loading = asyncio.create_task(load())
            await made(100)
            for number in range(rollbacks):
                victim = rng.randrange(REPLICAS)
                if number % 3 == 0:  # they wake up, their leases still good, with commits in hand that are late
                    with replicas.paused():
                        generation = await roll_back(stub, number)
                        marks = await lengths(redis)
                elif number % 3 == 1:  # before, so that the next owner starts in the middle of the change
                    replicas.kill(victim)
                    generation = await roll_back(stub, number)
                    marks = await lengths(redis)
                else:  # or while it is under way
                    rolling = asyncio.create_task(roll_back(stub, number))
                    await asyncio.sleep(rng.uniform(0.0, 0.01))
                    replicas.kill(victim)
                    generation = await rolling
                    marks = await lengths(redis)
                answered.append((generation, marks))
                await made(sum(marks) + 50)
            over.set()
            await loading
            await made(published)
        finally:
            over.set()
            replicas.end()
    await mlops.stop()
    assert await consumed(redis) == published
    late = []
    for partition in range(CATALOG.partitions):
        entries = await redis.xrange(keys.entries("signals.momentum", partition))
        seen = [signal_pb2.Signal.FromString(fields[keys.PAYLOAD]).receipt.generation for _, fields in entries]
        for generation, marks in answered:
            late += [each for each in seen[marks[partition] :] if each < generation]
    return Outcome(versions, published, {generation for generation, _ in answered}, late)


async def test_no_signal_of_a_demoted_model_comes_after_the_answer_of_a_rollback(
    tmp_path: Path, redis_url: str, redis: Redis
) -> None:
    outcome = await storm(tmp_path, redis_url, redis, ROLLBACKS, seed=7)
    assert outcome.late == []
    assert len(outcome.generations) == ROLLBACKS
    # And the effects, counted: each vector has its one signal, by the champion of its generation, in order.
    made = await signals(redis, "momentum")
    wanted = [vector(n, ZEROS).as_of.seconds for n in range(outcome.published)]
    assert Counter(each.as_of.seconds for each in made) == Counter(wanted)
    champion_of: dict[int, set[str]] = {}
    by_symbol: dict[str, list[int]] = {}
    for each in made:
        champion_of.setdefault(each.receipt.generation, set()).add(each.receipt.model_digest)
        by_symbol.setdefault(each.symbol, []).append(each.as_of.seconds)
    assert all(digests == {outcome.versions[(generation - 1) % 2]} for generation, digests in champion_of.items())
    assert len(champion_of) > ROLLBACKS // 2, "signals were made between the rollbacks"
    assert all(times == sorted(times) for times in by_symbol.values())
    report = await replay(redis, CATALOG, ArtifactStore(tmp_path / "models"), Request(0, 10**17), Nowhere())
    assert report.sound
    assert report.reproduced == outcome.published


async def test_without_the_fence_they_do(
    tmp_path: Path, redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: this storm would show it."""

    async def put_up(*_: object) -> None:
        pass

    monkeypatch.setattr(Fences, "put_up", put_up)
    outcome = await storm(tmp_path, redis_url, redis, 10, seed=7)
    assert outcome.late != []
