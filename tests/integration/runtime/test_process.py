"""The life of a service process: how it ends when a part that it cannot do without has failed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

import pytest

from runtime.ports import free_port

SERVICE = """
import asyncio
from runtime.errors import ConfigurationError
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.process import Service, run, vital
from runtime.settings import MeshSettings

async def fail(error, after_s):
    await asyncio.sleep(after_s)
    raise error

class Up:
    def __init__(self, server, tasks):
        self.server, self.tasks, self.port = server, tasks, server.port

    async def stop(self):
        await self.server.not_serving()
        await asyncio.gather(*self.tasks)
        {stop}
        await self.server.drain()

async def build(settings):
    server = MeshServer(ServerConfig("127.0.0.1", 0, "TEST_PORT", drain_grace_s=0.1))
    await server.start(["a.b.C"])
    return Up(server, [vital("follower", fail({error}, {after_s}))])

run(Service("test_svc", MeshSettings, build, lambda settings: settings.feature_metrics_port, "TEST_METRICS_PORT"))
"""


async def said_by(error: str, *, after_s: float = 0.0, stop: str = "pass", **variables: str) -> tuple[int, list[Any]]:
    """Exit code and log of a service of which a part fails."""
    environment = {**os.environ, "QUANTMESH_FEATURE_METRICS_PORT": str(free_port()), **variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVICE.format(error=error, after_s=after_s, stop=stop),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in said.splitlines()]  # nothing but JSON


@pytest.mark.parametrize("after_s", [0.0, 0.2])
async def test_a_failed_part_ends_the_process_in_order(after_s: float) -> None:
    code, lines = await said_by('RuntimeError("a bug")', after_s=after_s)
    assert code == 1
    assert [line["event"] for line in lines if line["level"] == "critical"] == ["the follower failed: ending"]
    assert "a bug" in json.dumps(lines)
    assert lines[-1]["event"] == "stopped"


async def test_a_fault_of_the_configuration_found_later_is_78_in_one_line() -> None:
    code, lines = await said_by('ConfigurationError("X is wrong", reason="X")')
    assert code == 78
    assert [line["event"] for line in lines if line["level"] == "error"] == ["X is wrong"]
    assert not any("exception" in line for line in lines)


@pytest.mark.parametrize("stop", ["raise ValueError", "await asyncio.sleep(3600)"])
async def test_a_stop_that_fails_or_hangs_ends_too(stop: str) -> None:
    code, lines = await said_by(
        'RuntimeError("a bug")', stop=f"await self.server.drain(); {stop}", QUANTMESH_DRAIN_GRACE_S="0"
    )
    assert code == 1
    assert "stopped only in part" in [line["event"] for line in lines]


async def test_a_metrics_port_that_is_taken_is_78() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, lines = await said_by('RuntimeError("a bug")', QUANTMESH_FEATURE_METRICS_PORT=port)
    assert code == 78
    assert "TEST_METRICS_PORT" in lines[-1]["event"]


async def test_a_host_that_is_none_of_ours_is_78_and_named() -> None:
    code, lines = await said_by('RuntimeError("a bug")', QUANTMESH_HOST="192.0.2.1")
    assert code == 78
    assert "QUANTMESH_HOST: 192.0.2.1 is not an address of this machine" in lines[-1]["event"]
