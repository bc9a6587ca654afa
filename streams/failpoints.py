"""Places where the chaos tests kill a process. In production they cost one look at an empty dictionary.

`QUANTMESH_FAIL_POINTS=commit.before=3,produce.after=10` kills the process (SIGKILL) the third time that it comes by
`commit.before`, or the tenth time by `produce.after`.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "produce.before",
    "produce.after",
    "process.read",
    "process.transformed",
    "commit.before",
    "commit.after",
    "lease.acquired",
)
"""Their names."""


def _armed(setting: str) -> dict[str, int]:
    armed: dict[str, int] = {}
    for part in filter(None, setting.split(",")):
        name, _, count = part.partition("=")
        if name not in POINTS or not count.isdigit() or int(count) < 1:
            raise ValueError(f"QUANTMESH_FAIL_POINTS: {part!r} is not point=count; points: {', '.join(POINTS)}")
        armed[name] = int(count)
    return armed


_left = _armed(os.environ.get("QUANTMESH_FAIL_POINTS", ""))


def hit(name: str) -> None:
    """Die here when it is this place's turn."""
    if _left and name in _left:
        _left[name] -= 1
        if _left[name] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
