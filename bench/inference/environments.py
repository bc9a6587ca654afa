"""The peers' own environments, made on demand from pinned requirements, beside the project's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.load.build import UnavailableError, cache

FOLDER = Path(__file__).parents[1] / "peers"

_INSTALL_TIMEOUT_S = 600


def environment(name: str, python: str = sys.executable) -> Path:
    """The `bin` folder of the environment of `bench/peers/NAME.txt`. Raises UnavailableError."""
    requirements = FOLDER / f"{name}.txt"
    version = hashlib.sha256(requirements.read_bytes() + python.encode() + sys.version.encode()).hexdigest()[:12]
    home = cache() / f"bench-{name}-{version}"
    if not (home / "ready").exists():
        print(f"installing {name} in {home}", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        _run([_uv(), "venv", "--quiet", "--python", python, str(home)], name)
        install = [_uv(), "pip", "install", "--quiet", "--python", str(home / "bin" / "python")]
        _run([*install, "--requirement", str(requirements)], name)
        (home / "ready").touch()
    return home / "bin"


def system_python(version: str) -> str:
    """The operating system's own interpreter, whatever else is on PATH. Raises UnavailableError."""
    found = shutil.which(f"python{version}", path=os.defpath)
    if found is None:
        raise UnavailableError(f"needs the system's python{version} (Debian: apt-get install python{version}-venv)")
    return found


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise UnavailableError("no uv: run `make setup`")
    return found


def _run(command: list[str], name: str) -> None:
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{name} cannot be installed: {error}") from error
    if said.returncode:
        why = (said.stderr or said.stdout).strip().splitlines()
        raise UnavailableError(f"{name} cannot be installed: {why[-1] if why else 'no reason given'}")
