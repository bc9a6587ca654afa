"""`run/mesh.json` in the home: where the running mesh is. Other commands find it there; it is gone with the mesh.

A lock beside it says whether a mesh is running. The kernel frees the lock of a dead process, so a file that a killed
mesh left behind is told from a true one without trusting process ids, which are used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens. The services' addresses are `host:port` of gRPC; the gateway's is a URL."""

    feature: str
    inference: str
    mlops: str
    gateway: str
    metrics: Mapping[str, str]
    """Prometheus URL by process name."""


@dataclass(frozen=True, slots=True)
class MeshRecord:
    """A running mesh, as other processes may know it."""

    pid: int
    addresses: Addresses
    redis_url: str
    logs_dir: str
    pids: Mapping[str, int | None]
    """Process id by name; None while it is down."""
    restarts: Mapping[str, int]


def _directory(home: Path) -> Path:
    return home / "run"


def write_record(home: Path, record: MeshRecord) -> None:
    """Write the file so that a reader sees the old one or the new one. Only the owner may read it: the URL of Redis."""
    path = _directory(home) / "mesh.json"
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(record), file, indent=2)
    new.replace(path)


def remove_record(home: Path) -> None:
    """Remove the file. Harmless when there is none."""
    (_directory(home) / "mesh.json").unlink(missing_ok=True)


def read_record(home: Path) -> MeshRecord | None:
    """The mesh that runs on this home; None when none does, whatever a dead one left behind."""
    if not _is_locked(home):
        return None
    try:
        fields = json.loads((_directory(home) / "mesh.json").read_text())
    except FileNotFoundError:  # it is just starting, or just ending
        return None
    return MeshRecord(**{**fields, "addresses": Addresses(**fields["addresses"])})


def find_record(home: Path) -> MeshRecord | None:
    """The mesh that runs on this home, or else on a folder of it, as the demo's does; None when none runs."""
    homes = (home, *sorted(folder.parents[1] for folder in home.glob("*/run/mesh.json")))
    return next((record for record in map(read_record, homes) if record is not None), None)


def _is_locked(home: Path) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((_directory(home) / "mesh.lock").open("rb"))
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


class HomeLock:
    """The right to run a mesh on a home; held until `release`, or the death of the process."""

    def __init__(self, home: Path) -> None:
        """Raises BlockingIOError when another mesh holds it."""
        _directory(home).mkdir(parents=True, exist_ok=True)
        self._file = (_directory(home) / "mesh.lock").open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise

    def release(self) -> None:
        """Let another mesh run here."""
        self._file.close()
