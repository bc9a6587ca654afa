"""Run the shadow process: started by a replica, with a socket to it. It goes last."""

import os
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path


def _stand_back() -> None:
    """Let everybody else go first: for the processors, and for memory when there is not enough."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash writes no file of the size of the model
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    _stand_back()
    from inference_svc.shadow.link import SETTINGS, SOCKET
    from inference_svc.shadow.process import run

    sys.exit(run(os.environ[SETTINGS], socket.socket(fileno=int(os.environ[SOCKET]))))
