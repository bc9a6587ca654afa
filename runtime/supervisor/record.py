"""`run/mesh.json` in the home: where the running mesh is. Other commands find it there; it is gone with the mesh.

A lock beside it says whether a mesh is running. The kernel frees the lock of a dead process, so a file that a killed
mesh left behind is told from a true one without trusting process ids, which are used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from runtime.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens. The services' addresses are `host:port` of gRPC; the gateway's is a URL."""

    feature: str
    inference: str
    mlops: str
    gateway: str
    metrics: Mapping[str, str]
    """Prometheus URL by process name."""
    replicas: Mapping[str, str] = field(default_factory=dict)
    """gRPC address of each replica of inference_svc by process name, when several are behind a balancer."""
    balancer_admin: str = ""
    """Unix socket of the balancer's admin interface; empty when there is no balancer."""

    @property
    def listeners(self) -> Sequence[tuple[str, str]]:
        """Every process that others call, and where."""
        return [
            ("gateway", self.gateway),
            ("feature_svc", self.feature),
            ("balancer" if self.replicas else "inference_svc", self.inference),
            *self.replicas.items(),
            ("mlops_svc", self.mlops),
        ]

    @property
    def ports(self) -> frozenset[int]:
        """Every port that the mesh listens on for others."""
        grpc = (f"//{address}" for address in (self.feature, self.inference, self.mlops, *self.replicas.values()))
        return frozenset(port for url in (*grpc, self.gateway, *self.metrics.values()) if (port := urlsplit(url).port))


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


def run_directory(home: Path) -> Path:
    """Folder of the record and the lock."""
    return home / "run"


def write_record(home: Path, record: MeshRecord) -> None:
    """Write the file so that a reader sees the old one or the new one. Only the owner may read it: the URL of Redis."""
    path = run_directory(home) / "mesh.json"
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(record), file, indent=2)
    new.replace(path)


def remove_record(home: Path) -> None:
    """Remove the file. Harmless when there is none."""
    (run_directory(home) / "mesh.json").unlink(missing_ok=True)


def read_record(home: Path) -> MeshRecord | None:
    """The mesh that runs on this home; None when none does, whatever a dead one left behind.

    Raises ConfigurationError when the home cannot be read.
    """
    with usable(home):
        if not _is_locked(home):
            return None
        try:
            fields = json.loads((run_directory(home) / "mesh.json").read_text())
        except FileNotFoundError:  # it is just starting, or just ending
            return None
    return MeshRecord(**{**fields, "addresses": Addresses(**fields["addresses"])})


def find_record(home: Path) -> MeshRecord | None:
    """The mesh that runs on this home, or else on a folder of it, as the demo's does; None when none runs."""
    return next((record for record in map(read_record, (home, *_below(home))) if record is not None), None)


def neighbours(home: Path) -> list[MeshRecord]:
    """The meshes that run above or below this home: `quantmesh up` beside the demo, or the other way round."""
    return [record for record in map(read_record, (*_below(home), home.parent)) if record is not None]


def _below(home: Path) -> list[Path]:
    return sorted(file.parents[1] for file in home.glob("*/run/mesh.json"))


@contextlib.contextmanager
def usable(home: Path) -> Iterator[None]:
    """Do something in a home. Raises ConfigurationError (reason HOME_UNUSABLE) when the system does not let us."""
    try:
        yield
    except BlockingIOError:  # the lock of another mesh
        raise
    except OSError as error:
        raise ConfigurationError(
            f"QUANTMESH_HOME: {home} cannot be used ({error.strerror}): set it to a folder that you may write to",
            reason="HOME_UNUSABLE",
            metadata={"setting": "QUANTMESH_HOME"},
        ) from error


def _is_locked(home: Path) -> bool:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((run_directory(home) / "mesh.lock").open("rb"))
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
