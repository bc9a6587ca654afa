"""A strategy whose models come and go, while replicas are killed: its signals are late, but all there, in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

from redis.asyncio import Redis

from inference_svc.replay.run import Request, replay
from inference_svc.replay.sinks import Nowhere
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import DeploymentStore
from tests.chaos.test_rollbacks import PACE, REPLICAS, ZEROS, Replicas
from tests.integration.inference_svc.models import register, ridge
from tests.integration.inference_svc.test_held import Artifact, count, held, in_order, promote
from tests.integration.inference_svc.vectors import CATALOG, consumed, publish, signals, vector

ROUNDS = 8


async def test_what_is_held_survives_the_death_of_whoever_holds_or_releases_it(
    tmp_path: Path, redis_url: str, redis: Redis
) -> None:
    rng = random.Random(11)
    deployments = DeploymentStore(redis)
    await promote(deployments, redis, register(tmp_path, ridge(3.0), strategy="carry"), "carry")
    await promote(deployments, redis, register(tmp_path, ridge(1.0)), "momentum")
    published = 0
    over = asyncio.Event()

    async def load() -> None:
        nonlocal published
        while not over.is_set():
            await publish(redis, [vector(n, ZEROS) for n in range(published, published + PACE)])
            published += PACE
            await asyncio.sleep(0.01)

    replicas = Replicas(tmp_path, redis_url)
    most_held = 0
    try:
        loading = asyncio.create_task(load())
        await count(redis, "momentum", 100)
        for number in range(ROUNDS):
            artifact = Artifact(tmp_path, register(tmp_path, ridge(10.0 + number)))
            artifact.hide()
            await promote(deployments, redis, artifact.version, "momentum")
            await count(redis, "carry", published + 200)
            replicas.kill(rng.randrange(REPLICAS))  # in the middle of holding
            await count(redis, "carry", published + 200)
            most_held = max(most_held, await held(redis, "momentum"))
            artifact.show()
            await count(redis, "momentum", len(await signals(redis, "momentum")) + rng.randrange(1, 200))
            replicas.kill(rng.randrange(REPLICAS))  # in the middle of releasing
        over.set()
        await loading
        await count(redis, "carry", published)
        await count(redis, "momentum", published)
    finally:
        over.set()
        replicas.end()
    in_order(await signals(redis, "carry"), range(published))
    made = await signals(redis, "momentum")
    in_order(made, range(published))
    assert await consumed(redis) == published
    assert await held(redis, "momentum") == 0
    assert most_held > 100, "something was held"
    assert len(Counter(signal.receipt.generation for signal in made)) > ROUNDS // 2
    report = await replay(redis, CATALOG, ArtifactStore(tmp_path / "models"), Request(0, 10**17), Nowhere())
    assert report.sound
    assert report.reproduced == 2 * published
