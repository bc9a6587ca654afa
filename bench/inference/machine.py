"""The machine while something is measured: what others use of it, and the memory of a tree of processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def _stats() -> dict[int, list[str]]:
    """Fields of /proc/PID/stat after the name, by process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
    return found


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    stats = _stats()
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        if pid in stats:
            found.append(pid)
            todo += children.get(pid, [])
    return found


def identity(pid: int) -> tuple[int, str] | None:
    """A process id with the time of its start, which tells it from a later one of the same number; None: ended."""
    try:
        return pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def rss_mib(root: int) -> float:
    """Resident memory of a process and all that descend from it."""
    stats = _stats()
    return sum(int(stats[pid][21]) for pid in tree(root) if pid in stats) * _PAGE_MIB


class Machine:
    """How much of the machine others use from now on."""

    def __init__(self) -> None:
        self._busy_s, self._ours_s, self._started = _busy_s(), _ours_s(), time.monotonic()

    def ours(self) -> float:
        """Share of all cores that went to this process and what descends from it."""
        return (_ours_s() - self._ours_s) / ((time.monotonic() - self._started) * (os.cpu_count() or 1))

    def others(self) -> float:
        """Share of all cores that went to processes which do not descend from this one."""
        theirs_s = (_busy_s() - self._busy_s) - (_ours_s() - self._ours_s)
        share = theirs_s / ((time.monotonic() - self._started) * (os.cpu_count() or 1))
        return min(max(share, 0.0), 1.0)


def _busy_s() -> float:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS


def _ours_s() -> float:
    """Time of this process, of what descends from it, and of their children that have ended."""
    stats = _stats()
    return sum(sum(map(int, stats[pid][11:15])) for pid in tree(os.getpid()) if pid in stats) / _TICKS
