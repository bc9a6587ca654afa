"""The right to run a mesh on a home: one at a time has it."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

from runtime.errors import QuantmeshError
from runtime.supervisor.record import read_record, run_directory, usable

_LOOK_EVERY_S = 0.05
_LOOKS = 10


class MeshRunningError(QuantmeshError):
    """Another mesh runs on the same home."""


class HomeLock:
    """The right itself; held until `release`, or the death of the process."""

    def __init__(self, home: Path) -> None:
        """Raises BlockingIOError when another mesh holds it, ConfigurationError when the home cannot be used."""
        with usable(home):
            run_directory(home).mkdir(parents=True, exist_ok=True)
            self._file = (run_directory(home) / "mesh.lock").open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise

    def release(self) -> None:
        """Let another mesh run here."""
        self._file.close()


async def take(home: Path) -> HomeLock:
    """Take the lock. Raises MeshRunningError, which says how to end the mesh that has it."""
    for _ in range(_LOOKS):
        try:
            return HomeLock(home)
        except BlockingIOError:  # by another mesh; or for a moment, by someone who looks whether there is one
            await asyncio.sleep(_LOOK_EVERY_S)
    record = read_record(home)
    who = f" (process {record.pid})" if record else ""
    how = f"stop it with Ctrl-C or `kill {record.pid}`" if record else "stop it"
    raise MeshRunningError(
        f"a mesh is running on {home}{who}: {how}, or set QUANTMESH_HOME to another folder", reason="MESH_RUNNING"
    )
