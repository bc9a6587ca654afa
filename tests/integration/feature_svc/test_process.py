"""The whole service as a process that is killed: from ticks to vectors, nothing lost and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from redis.asyncio import Redis

from feature_svc.features import FEATURE_NAMES, compute_panel
from runtime.times import to_us
from tests.integration.feature_svc.mesh import CATALOG, SESSIONS_US, UNIVERSE, closes, length, publish_ticks, vectors
from tests.waiting import until


@contextmanager
def process(redis_url: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "QUANTMESH_REDIS_URL": redis_url,
        "QUANTMESH_PARTITIONS": str(CATALOG.partitions),
        "QUANTMESH_FEATURE_PORT": "0",
        "QUANTMESH_FEATURE_METRICS_PORT": "0",
    }
    with subprocess.Popen([sys.executable, "-m", "feature_svc"], env=environment) as started:
        try:
            yield started
        finally:
            started.kill()


async def test_kill_9_in_the_middle_loses_nothing_and_repeats_nothing(redis_url: str, redis: Redis) -> None:
    sessions = 270
    prices = closes(sessions)
    panel = compute_panel(prices)
    raws = int(np.isfinite(panel).sum())
    made = (sessions - 1) * len(UNIVERSE)  # the first session has no return
    await publish_ticks(redis, prices)
    for kill_at in (0.2, 0.55, 0.8):
        with process(redis_url) as running:
            await until(lambda: reached(redis, int(made * kill_at)), limit_s=60)  # noqa: B023
            running.kill()
            running.wait()
    with process(redis_url) as running:
        await until(lambda: reached(redis, made), limit_s=60)
        running.send_signal(signal.SIGTERM)
        assert running.wait(15) == 0
    assert await length(redis, "features.raw") == raws
    found = await vectors(redis)
    assert len(found) == made
    values = np.full_like(panel, np.nan)
    for vector in found:
        session = SESSIONS_US.index(to_us(vector.event_time))
        values[session, UNIVERSE.index(vector.symbol)] = vector.values
    known = np.isfinite(panel)
    assert np.array_equal(values[known].view(np.uint64), panel[known].view(np.uint64))
    assert values.shape == (sessions, len(UNIVERSE), len(FEATURE_NAMES))


async def reached(redis: Redis, count: int) -> bool:
    return await length(redis, "features.pit") >= count
