"""Keeps an Envoy with Python within, as the process that a supervisor sees: run by path, on a bare interpreter.

It tells the Python within to stop in order when it is told so itself (SIGTERM, SIGINT), which Envoy, that ends at once
on these signals, would not do; it ends with the exit code that the service within has left; and neither outlives the
other. It imports nothing but the standard library, so that it costs a few megabytes.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

STOP_FD = "QM_STOP_FD"
"""Variable that holds the file descriptor whose end of file tells the Python within to stop."""

EXIT_FILE = "exit"


def keep(folder: str, tethered: str, command: list[str]) -> int:
    """Run Envoy until it ends; the folder, which is this run's own, goes with it. Returns the exit code."""
    read, write = os.pipe()
    told = False

    def tell(_signal: int, _frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            os.close(write)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    try:
        envoy = subprocess.Popen(
            [sys.executable, "-I", "-S", tethered, str(os.getpid()), str(int(signal.SIGKILL)), *command],
            env={**os.environ, STOP_FD: str(read)},
            cwd=folder,  # a folder of some package's name where the user stands must not be imported instead
            pass_fds=[read],
            start_new_session=True,  # Ctrl-C is for this process
        )
        os.close(read)
        ended = envoy.wait()
        try:
            return int((Path(folder) / EXIT_FILE).read_text())
        except (OSError, ValueError):  # it was killed
            return 0 if told and ended == 0 else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1], sys.argv[2], sys.argv[3:]))
