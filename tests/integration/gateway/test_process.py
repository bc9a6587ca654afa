"""`python -m gateway` as the supervisor runs it: a real port, a clean end, and exit code 78 for a taken port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from runtime.grpc_server import MeshServer
from runtime.ports import free_port
from tests.waiting import until


@asynccontextmanager
async def gateway(port: int, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, "QUANTMESH_GATEWAY_PORT": str(port), **settings}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def answers(rest: httpx.AsyncClient) -> bool:
    try:
        return (await rest.get("/inference/health")).status_code == 200
    except httpx.TransportError:
        return False


async def test_serves_on_its_port_and_ends_cleanly(inference: MeshServer) -> None:
    port = free_port()
    async with (
        gateway(
            port, QUANTMESH_INFERENCE_ADDRESS=inference.address, QUANTMESH_GATEWAY_MAX_BODY_BYTES="1000"
        ) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as rest,
    ):
        await until(lambda: answers(rest))
        predicted = await rest.post("/inference/predict", json={"features": [1, 2]})
        assert predicted.json()["prediction"] == 3

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b" " * 500

        refused = await rest.post("/inference/predict", content=chunks())
        assert (refused.status_code, refused.json()["reason"]) == (413, "BODY_TOO_LARGE")
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0
    assert [(line["event"], line.get("port")) for line in map(json.loads, said.splitlines())] == [
        ("serving", port),
        ("stopping", None),
        ("stopped", None),
    ]


async def test_a_taken_port_ends_it_with_78_and_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with gateway(taken.getsockname()[1]) as process:
            _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 78
    assert b"QUANTMESH_GATEWAY_PORT" in said
    assert b"Traceback" not in said
