"""FastStream beside the fabric, in a process and an environment of its own, made the first time it is needed.

The environment is in `$XDG_CACHE_HOME/quantmesh` (`~/.cache/quantmesh`), so it survives `make clean` and never touches
the project's own. Without a package index there is no peer, and the tables say so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).with_name("peers")
_REQUIREMENTS = _FOLDER / "faststream.txt"


def environment() -> Path | None:
    """Python of the peer's environment; None when it cannot be installed here."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantmesh"
    version = hashlib.sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = cache / f"bench-faststream-{version}"
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    print(f"installing the peer of the bench in {home}", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", _REQUIREMENTS)
        subprocess.run([python, *install], check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no peer: {error}", file=sys.stderr)
        return None
    (home / "ready").touch()
    return python


def rates(python: Path, url: str, way: str, records: int, size: int) -> dict[str, float]:
    """Records per second of `publish` and `process`."""
    command: list[str | Path] = [python, _FOLDER / "faststream_peer.py", url, way, str(records), str(size)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if said.returncode:
        raise RuntimeError(f"the peer failed:\n{said.stderr}")
    answer: dict[str, float] = json.loads(said.stdout)
    return answer
