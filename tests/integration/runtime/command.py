"""The `quantmesh` command, run as a user runs it."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


class Command:
    """Runs `quantmesh` with an environment of its own."""

    def __init__(self, home: Path, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUANTMESH_")}
        self.environment = {**kept, "QUANTMESH_HOME": str(home), "COLUMNS": "200", **variables}

    async def start(self, *arguments: str, feed: bool = False) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from runtime.cli import main; main()",
            *arguments,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE if feed else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str, stdin: str | None = None) -> Said:
        process = await self.start(*arguments, feed=stdin is not None)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode() if stdin is not None else None), 60)
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())
