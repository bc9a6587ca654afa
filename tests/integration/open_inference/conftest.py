"""A replica, a gateway in front of it, and tritonclient for both."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from modelstore.deployments import DeploymentStore
from runtime.ports import free_port
from tests.integration.inference_svc.models import register, replica
from tests.integration.open_inference.triton import Triton, interpreter
from tests.waiting import until

Serve = Callable[..., AbstractAsyncContextManager[Triton]]


@pytest.fixture(scope="session")
def triton_python() -> Path:
    return interpreter()


@asynccontextmanager
async def gateway_of(address: str) -> AsyncIterator[str]:
    port = free_port()
    environment = {
        **os.environ,
        "QUANTMESH_GATEWAY_PORT": str(port),
        "QUANTMESH_INFERENCE_ADDRESS": address,
        "QUANTMESH_GATEWAY_TIMEOUT_S": "60",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as rest:

            async def answers() -> bool:
                try:
                    return (await rest.get("/v2/health/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers, limit_s=60)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture
def serve(request: pytest.FixtureRequest, triton_python: Path, tmp_path: Path, redis: Redis, redis_url: str) -> Serve:
    """Serve models as the champions of strategies, one after another in each; of protocol `protocol`."""

    @asynccontextmanager
    async def serving(*onnx: bytes, strategy: str = "momentum", **settings: object) -> AsyncIterator[Triton]:
        deployments = DeploymentStore(redis)
        for generation, each in enumerate(onnx):
            version = register(tmp_path, each, strategy=strategy)
            await deployments.promote(
                strategy, version, expected_generation=generation or None, reason="", request_id=""
            )
        # How fast this machine is at the moment is no matter of these tests.
        async with replica(tmp_path, redis_url, p99_ms_target=60_000, **settings) as running:
            protocol = request.getfixturevalue("protocol") if "protocol" in request.fixturenames else "grpc"
            if protocol == "grpc":
                yield Triton(triton_python, "grpc", running.address)
            else:
                async with gateway_of(running.address) as url:
                    yield Triton(triton_python, "http", url)

    return serving
