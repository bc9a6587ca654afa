"""Whether a model fits into memory, asked before it is loaded: a replica that is killed for memory serves nobody."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import ResourceExhaustedError

MB = 1024 * 1024

_PER_ARTIFACT_BYTE = 4
"""The artifact's bytes, the parsed graph, the session's own copy, and scratch for its largest batch."""

_FLOOR = 32 * MB
_RESERVE = 64 * MB
"""Left free for requests."""

_CGROUP = Path("/sys/fs/cgroup")


def check_fits(artifact_bytes: int, limit_bytes: int) -> None:
    """Check that a model of that size can be loaded beside what is in memory.

    `limit_bytes` is the most memory of this process, 0 for what the machine, or its control group, has left. Raises
    ResourceExhaustedError (NOT_ENOUGH_MEMORY).
    """
    needed = max(artifact_bytes * _PER_ARTIFACT_BYTE, _FLOOR) + _RESERVE
    left = limit_bytes - _resident() if limit_bytes else _available()
    if needed > left:
        raise ResourceExhaustedError(
            f"not enough memory to load a model of {artifact_bytes / MB:.0f} MB beside those that serve: it needs "
            f"about {needed / MB:.0f} MB and {max(left, 0) / MB:.0f} MB are left",
            reason="NOT_ENOUGH_MEMORY",
        )


def _resident() -> int:
    return _kilobytes(Path("/proc/self/status"), "VmRSS:") or 0


def _available() -> int:
    """Bytes that can be had before something is killed; very many where the system does not say."""
    found = _kilobytes(Path("/proc/meminfo"), "MemAvailable:")
    available = found if found is not None else 1 << 60
    try:
        limit, used = (_CGROUP / "memory.max").read_text().strip(), (_CGROUP / "memory.current").read_text()
        if limit != "max":
            available = min(available, int(limit) - int(used))
    except (OSError, ValueError):  # no control group of version 2, or none with a limit
        pass
    return available


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
