"""Builds the C++ programs of this folder on demand, into the cache that the peers' environments are in too."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

_FOLDER = Path(__file__).parent
_COMPILER = ("g++", "-O2", "-std=c++17", "-Wall", "-Wextra")
_PACKAGES = "g++ pkg-config libgrpc++-dev"


class UnavailableError(Exception):
    """A tool or a peer that cannot be had here; the message says why."""


def cache() -> Path:
    """Folder of what is built or installed for the bench; survives `make clean`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantmesh"


def binary(name: str) -> Path:
    """Path of `NAME.cc`, compiled. Raises UnavailableError, which says what is missing."""
    sources = [*sorted(_FOLDER.glob("*.h")), _FOLDER / f"{name}.cc"]
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    target = cache() / f"bench-{name}-{version}"
    if target.exists():
        return target
    for tool in ("g++", "pkg-config"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"no {tool} (Debian: apt-get install {_PACKAGES})")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True)
    if flags.returncode:
        raise UnavailableError(f"no C++ gRPC (Debian: apt-get install {_PACKAGES})")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_suffix(f".{os.getpid()}")
    said = subprocess.run(
        [*_COMPILER, str(_FOLDER / f"{name}.cc"), "-o", str(made), *flags.stdout.split()],
        capture_output=True,
        text=True,
    )
    if said.returncode:
        raise UnavailableError(f"{name}.cc does not compile:\n{said.stderr[-2000:]}")
    made.replace(target)
    return target


def tool(name: str, package: str) -> str:
    """Path of an installed program. Raises UnavailableError."""
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(f"no {name} (Debian: apt-get install {package})")
    return found
