"""Processes that die at every boundary, at random, or wake as zombies: each record has its effect once, in order.

This is the short form; `make chaos` runs 240 schedules.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from streams import OutRecord, Producer
from streams.failpoints import POINTS
from tests.chaos.streams.drive import drive
from tests.chaos.streams.schedules import OF_PROCESSORS, peaceful

SCHEDULES = 24


def test_nothing_is_lost_repeated_or_reordered_whoever_dies_wherever() -> None:
    found = drive("--seeds", f"0-{SCHEDULES - 1}", "--jobs", "8")
    assert not found.unsound
    assert found.total.records > SCHEDULES * 800
    assert not set(POINTS) - found.kills.keys(), "a point at which nobody died"
    assert found.kills["kill"] > SCHEDULES
    assert sum(times for name, times in found.kills.items() if name.startswith("zombie")) > SCHEDULES / 2


@pytest.mark.parametrize("point", OF_PROCESSORS)
async def test_a_program_dies_at_the_point_that_its_environment_names(redis: Redis, redis_url: str, point: str) -> None:
    schedule = peaceful(0)
    producer = Producer(redis, schedule.catalog)
    await producer.send_many([OutRecord("features.raw", key, f"{key}|1".encode()) for key in schedule.keys])
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.chaos.streams.workers", redis_url, "doomed", "300"],
        env=os.environ | {"QUANTMESH_FAIL_POINTS": f"{point}=1"},
        stdout=subprocess.DEVNULL,
        timeout=20,
    )
    assert ended.returncode == -signal.SIGKILL
