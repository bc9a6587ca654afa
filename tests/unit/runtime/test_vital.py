"""A task that a process cannot do without does not die in silence."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from runtime.process import vital


async def _with_a_failing_task() -> None:
    async def fail() -> None:
        raise RuntimeError("a bug")

    task = vital("follower", fail())
    await asyncio.wait({task})
    await asyncio.sleep(60)


def test_the_event_loop_ends_when_a_vital_task_fails() -> None:
    with pytest.raises(SystemExit) as raised:
        uvloop.run(_with_a_failing_task())
    assert raised.value.code == 1


async def test_a_vital_task_that_ends_ends_nothing() -> None:
    await vital("scorer", asyncio.sleep(0))


async def test_one_that_is_cancelled_at_once_leaves_nothing_behind() -> None:
    task = vital("scorer", asyncio.sleep(0))
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
