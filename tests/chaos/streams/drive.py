"""Starts the driver as a program of its own, as `make chaos` does, and reads what it found."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

from tests.chaos.streams.effects import Verdict
from tests.chaos.streams.runner import Outcome


@dataclass(frozen=True)
class Found:
    """What all schedules of a run found."""

    outcomes: list[Outcome]
    code: int

    @property
    def total(self) -> Verdict:
        return sum((outcome.verdict for outcome in self.outcomes), Verdict())

    @property
    def kills(self) -> Counter[str]:
        return sum((outcome.kills for outcome in self.outcomes), Counter[str]())

    @property
    def unsound(self) -> list[Outcome]:
        """Each with its seed: `make chaos ARGS='--seeds N'` runs it alone."""
        return [outcome for outcome in self.outcomes if not outcome.sound]


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "tests.chaos.streams.driver", "--json", *arguments]


def _found(code: int, said: str, complained: str) -> Found:
    assert said.startswith("["), f"the driver ended with code {code}:\n{said[-2000:]}\n{complained[-4000:]}"
    outcomes = [
        Outcome(each["seed"], Verdict(**each["verdict"]), Counter(each["kills"]), each["seconds"], each["fault"])
        for each in json.loads(said)
    ]
    return Found(outcomes, code)


def drive(*arguments: str, limit_s: float = 100.0) -> Found:
    """Run the driver to its end."""
    ended = subprocess.run(_command([*arguments]), capture_output=True, text=True, timeout=limit_s, check=False)
    return _found(ended.returncode, ended.stdout, ended.stderr)


class Driving:
    """A driver under way, for a test that does something to its server meanwhile."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            _command([*arguments]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    async def ended(self, limit_s: float = 100.0) -> Found:
        try:
            said, complained = await asyncio.to_thread(self._process.communicate, timeout=limit_s)
        finally:
            self._process.kill()
        return _found(self._process.returncode, said, complained)
