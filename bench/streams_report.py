"""What the bench of the streams prints: one table for each section, with target, measurement and verdict."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Line:
    """One row. `passed` is None where there is no target."""

    what: str
    measured: str
    target: str = ""
    passed: bool | None = None


@dataclass(slots=True)
class Section:
    """One table."""

    title: str
    lines: list[Line] = field(default_factory=list)

    def add(self, what: str, measured: str, target: str = "", passed: bool | None = None) -> None:
        """One row."""
        self.lines.append(Line(what, measured, target, passed))

    def print(self, others: float) -> None:
        """Print it. `others` is the share of the machine's cores that went to processes that are not the bench's."""
        judged = any(line.target for line in self.lines)
        table = Table(
            title=f"{self.title}\nload {os.getloadavg()[0]:.1f}; other processes used {others:.0%} of the machine",
            title_justify="left",
        )
        table.add_column("what")
        if judged:
            table.add_column("target")
        table.add_column("measured", justify="right")
        if judged:
            table.add_column("")
        for line in self.lines:
            verdict = {None: "", True: "pass", False: _BUSY if others > _OTHERS_MATTER else "FAIL"}[line.passed]
            table.add_row(*((line.what, line.target, line.measured, verdict) if judged else (line.what, line.measured)))
        console = Console()
        (console if console.is_terminal else Console(width=_WIDTH)).print(table)


_WIDTH = 140
"""Where there is no terminal to ask."""

_OTHERS_MATTER, _BUSY = 0.1, "FAIL (busy machine)"


class Machine:
    """How much of the machine others use while something is measured."""

    def __init__(self) -> None:
        self._busy_s, self._ours_s, self._wall_s = _busy_s(), _ours_s(), time.monotonic()

    def others(self) -> float:
        """Share of all cores that processes used which are not ours. Our children must have ended."""
        wall_s = time.monotonic() - self._wall_s
        theirs_s = (_busy_s() - self._busy_s) - (_ours_s() - self._ours_s)
        return max(0.0, theirs_s / (wall_s * (os.cpu_count() or 1)))


def _busy_s() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, _lines("/proc/stat")[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _ours_s() -> float:
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in each)


def machine() -> str:
    """The machine, and how busy it is before anything starts."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    loads = "/".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, {model or platform.machine()}; Python {platform.python_version()}; "
        f"load before the start {loads} (1/5/15 min)"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def spread(values: list[float], unit: str, digits: int = 0) -> str:
    """Median and extremes."""
    return f"{median(values):,.{digits}f} {unit} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
