"""One life of a worker: a forked process with a fate, and what it has left to say.

Workers are forked from a process without threads and event loop, so a life costs milliseconds. SIGKILL at a point is
`streams.failpoints` itself, armed by QUANTMESH_FAIL_POINTS; a zombie stops itself (SIGSTOP) at the point.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeAlias

import uvloop

from streams import failpoints
from tests.chaos.streams import stacks
from tests.chaos.streams.schedules import Fate

Acknowledge: TypeAlias = Callable[[int], None]
Role: TypeAlias = Literal["producer", "member"]

_HELD_BACK = (signal.SIGTERM, stacks.ASK)
_LAST_LINES = 60
_PR_SET_PDEATHSIG = 1


@dataclass
class Life:
    """One process."""

    role: Role
    number: int
    turn: int
    """Which life of its worker it is: 0, 1, 2 …"""
    fate: Fate
    pid: int
    due: float
    """When the parent does what the fate says."""
    pipe: int
    """Read end of what a producer acknowledges; -1 for a member."""
    stderr: IO[bytes] | None
    """None where it writes to the stderr of the driver."""
    resumes: float = 0.0
    """When a zombie is woken; it has its heir by then."""
    told: bool = False
    """Whether the parent has done so."""
    superseded: bool = False
    """Whether its heir has begun, though it lives."""

    def __str__(self) -> str:
        return f"{self.role} {self.number}, life {self.turn} (fate: {self.fate}; pid {self.pid})"

    def acknowledged(self) -> int | None:
        """The last place of its source that it has acknowledged since this was asked, if any."""
        last = None
        with suppress(BlockingIOError):
            while self.pipe >= 0 and (said := os.read(self.pipe, 4096)):
                last = struct.unpack("<I", said[-4:])[0]
        return last

    def last_words(self) -> str:
        """The end of its stderr, indented; empty when there is nothing."""
        if self.stderr is None:
            return ""
        text = os.pread(self.stderr.fileno(), os.fstat(self.stderr.fileno()).st_size, 0).decode(errors="replace")
        return "".join(f"\n    | {line}" for line in text.splitlines()[-_LAST_LINES:])

    def close(self) -> None:
        """Let go of its pipe and its stderr."""
        if self.pipe >= 0:
            os.close(self.pipe)
        if self.stderr is not None:
            self.stderr.close()


def begin(
    role: Role,
    number: int,
    turn: int,
    fate: Fate,
    skew_s: float,
    work: Callable[[Acknowledge], Coroutine[Any, Any, int]],
    *,
    keep_stderr: bool,
) -> Life:
    """Fork a process that does the work, whose result is its exit code."""
    reading, writing = os.pipe() if role == "producer" else (-1, -1)
    stderr = tempfile.TemporaryFile() if keep_stderr else None  # noqa: SIM115
    # Until the child has its handlers, a SIGTERM would kill it as no member may be: it has to wait. On a busy machine
    # that takes a fork 0.2 s.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    pid = os.fork()
    if pid != 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    else:
        if stderr is not None:
            os.dup2(stderr.fileno(), 2)
        if reading >= 0:
            os.close(reading)
        _live(fate, skew_s, work(lambda at: _tell(writing, at)))
    if reading >= 0:
        os.close(writing)
        os.set_blocking(reading, False)
    due = time.monotonic() + fate.after_s if fate.after_s else 0.0
    return Life(role, number, turn, fate, pid, due, reading, stderr)


def listen() -> None:
    """Let in what a life was told before its handlers were there."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


def _tell(pipe: int, at: int) -> None:
    os.write(pipe, struct.pack("<I", at))


def _live(fate: Fate, skew_s: float, work: Coroutine[Any, Any, int]) -> None:
    """The child: never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        random.seed()
        skew(skew_s)
        if fate.kind == "point":
            os.environ["QUANTMESH_FAIL_POINTS"] = f"{fate.point}={fate.count}"
            importlib.reload(failpoints)
        elif fate.kind == "zombie":
            failpoints.hit = _stopping(fate)
        code = uvloop.run(work)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def skew(seconds: float) -> None:
    """Make the clock of this process be off by so much."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def _stopping(fate: Fate) -> Any:
    left = fate.count

    def hit(name: str) -> None:
        nonlocal left
        if name == fate.point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    return hit
