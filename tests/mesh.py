"""A whole mesh for tests: `quantmesh up` as a user runs it, on ports and a home of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.supervisor import Addresses, MeshRecord, read_record
from runtime.supervisor.services import services

_UP_WITHIN_S = 60.0
_DOWN_WITHIN_S = 30.0
_PORTS = (
    "FEATURE_PORT",
    "INFERENCE_PORT",
    "MLOPS_PORT",
    "GATEWAY_PORT",
    "FEATURE_METRICS_PORT",
    "INFERENCE_METRICS_PORT",
    "MLOPS_METRICS_PORT",
    "REPLICA_PORT",
    "REPLICA_METRICS_PORT",
)
QUANTMESH = str(Path(sys.executable).with_name("quantmesh"))
"""The command, as it is installed."""


@dataclass(frozen=True)
class RunningMesh:
    """A mesh that is up."""

    home: Path
    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]

    @property
    def record(self) -> MeshRecord:
        """What the mesh says of itself, now."""
        record = read_record(self.home)
        assert record is not None, "the mesh is gone"
        return record

    @property
    def addresses(self) -> Addresses:
        """Where it listens."""
        return self.record.addresses

    @property
    def redis_url(self) -> str:
        """Its Redis."""
        return self.record.redis_url

    def pid(self, name: str) -> int:
        """Process id of a service that is up."""
        pid = self.record.pids[name]
        assert pid is not None, f"{name} is down"
        return pid

    def log(self, name: str) -> str:
        """What a service wrote."""
        return (Path(self.record.logs_dir) / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """SIGKILL one service. Redis gets SIGTERM: what a server that is killed can lose is another matter."""
        os.kill(self.pid(name), signal.SIGTERM if name == "redis" else signal.SIGKILL)

    def halt(self, name: str) -> None:
        """SIGSTOP one service with all that it has started, such as the Envoy that it keeps."""
        for pid in family(self.pid(name)):
            os.kill(pid, signal.SIGSTOP)


def family(pid: int) -> Iterator[int]:
    """A process, and all that it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


@contextmanager
def running_mesh(home: Path, **settings: str) -> Iterator[RunningMesh]:
    """Start `quantmesh up`, wait until all is ready, stop it by one SIGINT; it must end cleanly."""
    ports = {f"QUANTMESH_{name}": "0" for name in _PORTS}
    environment = {**os.environ, **ports, "QUANTMESH_HOME": str(home), **settings}
    output = home / "up.log"
    home.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as log:
        process = subprocess.Popen([QUANTMESH, "up"], env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        mesh = RunningMesh(home, process, environment)
        asyncio.run(_ready(mesh, output))
        yield mesh
        process.send_signal(signal.SIGINT)
        assert process.wait(_DOWN_WITHIN_S) == 0, output.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def _ready(mesh: RunningMesh, output: Path) -> None:
    try:
        async with asyncio.timeout(_UP_WITHIN_S):
            while read_record(mesh.home) is None:
                assert mesh.process.poll() is None, output.read_text()
                await asyncio.sleep(0.05)
            for child in services(mesh.addresses):
                while not await child.ready():
                    assert mesh.process.poll() is None, output.read_text()
                    await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not up within {_UP_WITHIN_S:g} s:\n{output.read_text()}") from None
