"""Runs many schedules at once: `python -m tests.chaos.streams.driver --help`. `make chaos` is this with 240 of them.

Each schedule has a database of the server to itself, and a process that forks its workers. Exit code 1 when one is
not sound: what was wrong is printed, with the command that runs it alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import structlog

from tests.chaos.streams.negative import CHANGES, leave_out
from tests.chaos.streams.report import again, report, table
from tests.chaos.streams.runner import STALL_S, Outcome, Runner, control
from tests.chaos.streams.schedules import Schedule, peaceful, schedule_of
from tests.redis_server import server


def run_all(
    url: str,
    schedules: Sequence[Schedule],
    jobs: int,
    told: Callable[[Outcome], None],
    control_url: str | None = None,
    stall_s: float = STALL_S,
    *,
    keep_stderr: bool = True,
) -> list[Outcome]:
    """Run schedules, so many at once, each in a process and, where the server has several, in a database of its own."""
    waiting, running, outcomes = list(schedules), dict[int, tuple[IO[bytes], Schedule, int]](), list[Outcome]()
    free = list(range(jobs))
    while waiting or running:
        while waiting and free:
            schedule, database = waiting.pop(0), free.pop()
            said = tempfile.TemporaryFile()  # noqa: SIM115
            pid = os.fork()
            if pid == 0:
                _run_one(url, control_url or url, schedule, database, stall_s, said, keep_stderr)
            running[pid] = (said, schedule, database)
        pid, status = os.waitpid(-1, 0)
        said, schedule, database = running.pop(pid)
        with said:
            said.seek(0)
            pickled = said.read()
        died = f"the runner ended with code {os.waitstatus_to_exitcode(status)}, and said nothing"
        outcome = pickle.loads(pickled) if pickled else Outcome(schedule.seed, fault=died)
        free.append(database)
        outcomes.append(outcome)
        told(outcome)
    return outcomes


def _run_one(
    url: str,
    control_url: str,
    schedule: Schedule,
    database: int,
    stall_s: float,
    said: IO[bytes],
    keep_stderr: bool,
) -> None:
    """The child: never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if not url.startswith("redis+"):
            url, control_url = (each.rsplit("/", 1)[0] + f"/{database}" for each in (url, control_url))
        try:
            redis = control(control_url)
            redis.flushdb()
            redis.close()
            outcome = Runner(url, schedule, control_url, stall_s, keep_stderr=keep_stderr).run()
        except Exception:
            outcome = Outcome(schedule.seed, fault=traceback.format_exc())
        pickle.dump(outcome, said)
        said.flush()
        code = 0
    finally:
        os._exit(code)


def seeds_of(text: str) -> list[int]:
    """`3`, `0-23`, `1,5,7`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@contextmanager
def _server_at(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with (
        tempfile.TemporaryDirectory(prefix="quantmesh-chaos-") as folder,
        server(Path(folder) / "server", {"databases": "64"}) as one,
    ):
        yield f"redis://{one.address}/0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and say by the exit code whether all was sound."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("0-239"), help="3, 0-23 or 1,5,7 (default: 0-239)")
    parser.add_argument("--jobs", type=int, default=8, help="schedules at once (default: 8)")
    parser.add_argument("--records", type=int, default=480, help="records of a schedule (default: 480)")
    parser.add_argument("--url", help="a server that may be emptied (default: one of its own)")
    parser.add_argument("--control-url", help="the same server without the proxy that --url may name")
    parser.add_argument("--without", choices=CHANGES, help="negative control: leave out a guarantee")
    parser.add_argument("--peaceful", choices=("send_many", "send", "post"), help="nobody is killed; send in this way")
    parser.add_argument("--no-event-ids", action="store_true", help="with --peaceful: sequences alone deduplicate")
    parser.add_argument("--durability", default="memory", help="of the source, as in streams.yaml")
    parser.add_argument("--stall-s", type=float, default=STALL_S, help="after how long without progress all is lost")
    parser.add_argument("--json", action="store_true", help="print one line for programs, and no table")
    parser.add_argument("--logs", action="store_true", help="let the workers log to this stderr, as they go")
    options, usual = parser.parse_args(arguments), parser.parse_args([])
    # Without --logs they are kept for the report of a fault.
    level = logging.INFO if options.logs else logging.WARNING
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso"), plain],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if options.without:
        leave_out(options.without)
    schedules = [
        replace(schedule, durability=options.durability)
        for schedule in (
            peaceful(seed, records=options.records, event_ids=not options.no_event_ids, mode=options.peaceful)
            if options.peaceful
            else schedule_of(seed, options.records)
            for seed in options.seeds
        )
    ]

    def told(outcome: Outcome) -> None:
        if not outcome.sound and not options.json:
            print(report(outcome, again(options, usual, outcome.seed)), flush=True)

    began = time.monotonic()
    with _server_at(options.url) as url:
        outcomes = run_all(
            url, schedules, options.jobs, told, options.control_url, options.stall_s, keep_stderr=not options.logs
        )
    if options.json:
        print(json.dumps([{**vars(outcome), "verdict": asdict(outcome.verdict)} for outcome in outcomes]))
        return int(not all(outcome.sound for outcome in outcomes))
    print(table(outcomes, time.monotonic() - began))
    failed = sorted((outcome for outcome in outcomes if not outcome.sound), key=lambda outcome: outcome.seed)
    for outcome in failed:  # once more, where they are not to be missed
        print(report(outcome, again(options, usual, outcome.seed)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
