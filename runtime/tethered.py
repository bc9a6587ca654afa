"""Start a program that dies with its parent, so that a killed supervisor or test leaves no server behind.

Linux sends a chosen signal to a process whose parent is gone (PR_SET_PDEATHSIG). It must be asked for in the child;
doing so between fork and exec is not safe in a process with threads (gRPC has many), so the child is this small file,
run by a bare interpreter, which then becomes the program: same pid, no process in between. Where there is no prctl the
program starts untethered. The parent here is the thread that made the child: start children from one that stays.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str], when_orphaned: signal.Signals = signal.SIGKILL) -> list[str]:
    """Command line that runs `command` (its first word a path, or found on PATH) tied to the calling process."""
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(when_orphaned)), *command]


def _become(parent: int, when_orphaned: int, command: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, when_orphaned)
    if os.getppid() != parent:  # it died before the request was made
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
