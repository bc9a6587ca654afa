"""A replica as users run it: the process, with the listener of one's choice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.ports import free_port
from runtime.supervisor.services import INFERENCE, health
from runtime.tethered import tethered
from tests.waiting import until

LISTENERS = ("grpcio", "envoy")


@dataclass
class Replica:
    """A process that was started."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        return self.log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def code(self, limit_s: float = 20.0) -> int:
        """Exit code, once it has ended."""
        return await asyncio.to_thread(self.process.wait, limit_s)


def start(home: Path, redis_url: str, listener: str, **variables: str) -> Replica:
    """Start a replica, and do not wait for it."""
    port = int(variables.get("QUANTMESH_INFERENCE_PORT", "0")) or free_port()
    metrics_port = free_port()
    environment = os.environ | {
        "QUANTMESH_HOME": str(home),
        "QUANTMESH_REDIS_URL": redis_url,
        "QUANTMESH_INFERENCE_PORT": str(port),
        "QUANTMESH_INFERENCE_METRICS_PORT": str(metrics_port),
        "INFER_LISTENER": listener,
        **variables,
    }
    log = home / f"{listener}-{port}.log"
    with log.open("wb") as output:
        command = tethered([sys.executable, "-P", "-m", "inference_svc"])
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    return Replica(process, port, metrics_port, log)


@asynccontextmanager
async def serving(home: Path, redis_url: str, listener: str, **variables: str) -> AsyncIterator[Replica]:
    """A replica that serves; ended afterwards."""
    replica = start(home, redis_url, listener, **variables)
    try:

        async def is_up() -> bool:
            assert replica.process.poll() is None, replica.said
            return await health(replica.address, INFERENCE) == "SERVING"

        await until(is_up, 40)
        yield replica
    finally:
        if replica.process.poll() is None:
            replica.end()
            try:
                await replica.code()
            except subprocess.TimeoutExpired:
                replica.end(signal.SIGKILL)
                raise
