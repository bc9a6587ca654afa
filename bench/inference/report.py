"""What the bench prints: for each section a table of figures, then one of targets; all of it as JSON too."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.inference.machine import Machine
from bench.streams_report import machine

_WIDTH = 140
"""Where there is no terminal to ask."""

_OTHERS_MATTER = 0.1
"""A miss while others used more of the machine is to be measured again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target. `met` is None where it could not be measured."""

    what: str
    target: str
    measured: str
    met: bool | None


@dataclass(slots=True)
class Section:
    """One row of the bench. `figures` is for JSON: what the table says, unrounded."""

    name: str
    title: str
    columns: Sequence[str] = ()
    lines: list[tuple[str, ...]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    others: float = 0.0
    """Share of the machine that went to processes which are not the bench's."""
    load: float = 0.0

    def add(self, *cells: str, **figures: Any) -> None:
        """One line of the table."""
        self.lines.append(cells)
        self.figures.append(figures)

    def gap(self) -> None:
        """A line between groups."""
        self.lines.append(())

    def judge(self, what: str, target: str, measured: str, met: bool | None) -> None:
        """One target."""
        self.verdicts.append(Verdict(what, target, measured, met))


class Report:
    """Prints sections as they come, and keeps them."""

    def __init__(self) -> None:
        self._console = Console()
        if not self._console.is_terminal:
            self._console = Console(width=_WIDTH)
        self._sections: list[Section] = []
        self._machine = machine()
        self._console.print(self._machine, highlight=False)

    def say(self, what: str) -> None:
        """A line of its own."""
        self._console.print(what, highlight=False, markup=False)

    def finish(self, section: Section, use: Machine) -> None:
        """Print a section; `use` was made when it began."""
        section.others, section.load = use.others(), os.getloadavg()[0]
        self._sections.append(section)
        print_ = self._console.print
        print_()
        print_(_figures(section) if section.lines else section.title, highlight=False)
        for name, why in section.missing.items():
            print_(f"  {name}: not available: {why}", highlight=False, markup=False)
        for note in section.notes:
            print_(f"  {note}", highlight=False, markup=False)
        if section.verdicts:
            print_(_verdicts(section))

    def write(self, path: Path) -> None:
        """All sections as JSON."""
        document = {
            "machine": self._machine,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sections": [asdict(section) for section in self._sections],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def _figures(section: Section) -> Table:
    title = f"{section.title}\nload {section.load:.1f}; other processes used {section.others:.0%} of the machine"
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(section.columns):
        table.add_column(column, justify="right" if number else "left")
    for line in section.lines:
        if line:
            table.add_row(*line)
        else:
            table.add_section()
    return table


def _verdicts(section: Section) -> Table:
    table = Table(show_edge=True)
    for column in ("target", "", "measured", ""):
        table.add_column(column)
    missed = "MISSED (busy machine)" if section.others > _OTHERS_MATTER else "MISSED"
    words = {True: "met", False: missed, None: "not measured"}
    for verdict in section.verdicts:
        table.add_row(verdict.what, verdict.target, verdict.measured, words[verdict.met])
    return table


def rate(value: float) -> str:
    """Calls a second."""
    return f"{value:,.0f}"


def ms(value: float) -> str:
    """Milliseconds, three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def times(value: float, other: float) -> str:
    """A ratio."""
    return "-" if not other else f"{value / other:.2f} x"


def share(value: float, other: float) -> str:
    """A ratio to something larger."""
    return "-" if not other else f"{value / other:.0%}"


def failures(failed: dict[str, int] | Any) -> str:
    """Calls that failed, by status."""
    return ", ".join(f"{count:,} {status}" for status, count in sorted(failed.items())) or "0"
