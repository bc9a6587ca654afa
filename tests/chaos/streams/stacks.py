"""Where the tasks of a process stand: a worker that hangs is asked by a signal, and answers on its stderr."""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from traceback import FrameSummary
from types import FrameType
from typing import Any

ASK = signal.SIGUSR1
_ROOT = Path(__file__).parents[3]

END = "(all tasks)"
"""The last line of the answer."""


def answer_when_asked() -> None:
    """Print the stacks of all tasks of this event loop at each signal."""
    asyncio.get_running_loop().add_signal_handler(ASK, _print_all)


def _print_all() -> None:
    """Tasks that stand at the same place are told once."""
    for stack, count in Counter(map(_stack, asyncio.all_tasks())).items():
        print(f"{count} task{'s' * (count > 1)}:\n{stack}", end="", file=sys.stderr)
    print(END, file=sys.stderr, flush=True)


def _stack(task: asyncio.Task[Any]) -> str:
    """This project's own frames, and the innermost of all."""
    frames = [
        FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        for frame in _frames(task.get_coro())
    ]
    return "".join(traceback.format_list([frame for frame in frames[:-1] if _is_ours(frame)] + frames[-1:]))


def _is_ours(frame: FrameSummary) -> bool:
    return Path(frame.filename).is_relative_to(_ROOT) and "site-packages" not in frame.filename


def _frames(awaited: Any) -> Iterator[FrameType]:
    """From the task's own coroutine to the innermost that it awaits (a task itself knows only the first)."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            return
        yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
