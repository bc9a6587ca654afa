"""The driver itself: whom it blames, how it says so, and that a busy machine is nobody's fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.streams.drive import Driving
from tests.chaos.streams.stall import Stall
from tests.redis_server import server
from tests.waiting import until

END_AT_ONCE = """
import os, signal, sys
from tests.chaos.streams.lives import begin
from tests.chaos.streams.schedules import LIVE, peaceful
from tests.chaos.streams.workers import process

life = begin("member", 0, 0, LIVE, 0.0, lambda _: process(sys.argv[1], peaceful(0), "early"), keep_stderr=True)
os.kill(life.pid, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(life.pid, 0)[1]), life.last_words())
"""


def said(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and table of a run."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.streams.driver", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_a_member_that_is_told_to_end_before_it_can_listen_ends_in_order(redis_url: str) -> None:
    command = [sys.executable, "-c", END_AT_ONCE, redis_url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["0"]


def test_a_process_that_ends_as_nobody_should_is_named_with_its_exit_code() -> None:
    code, table = said("--seeds", "7", "--peaceful", "post", "--stall-s", "1", QUANTMESH_FAIL_POINTS="commit.before=1")
    assert code == 1
    assert "seed 7 is not sound: lost:" in table
    assert "life 0 (fate: live; pid " in table
    assert "ended with code -9" in table
    assert table.endswith("  alone: make chaos ARGS='--seeds 7 --peaceful post --stall-s 1.0'\n")


def test_of_a_schedule_that_stalls_every_process_says_where_it_stands() -> None:
    """There is no replica that could acknowledge."""
    code, table = said("--seeds", "3", "--peaceful", "send", "--durability", "replicated(1)", "--stall-s", "1")
    assert code == 1
    assert "nothing has moved for 1 s" in table
    for process in ("producer 0", "producer 1", "member 0", "member 1"):
        assert f"\n  {process}, life 0" in table
    assert "streams/producer.py" in table
    assert "streams/processor.py" in table


async def test_a_server_that_never_comes_back_is_a_fault(tmp_path: Path) -> None:
    with server(tmp_path / "server") as one, one.client() as client:
        schedule = ("--seeds", "5", "--jobs", "1", "--peaceful", "post", "--stall-s", "1")
        driving = Driving("--url", f"redis://{one.address}/0", *schedule)
        await until(lambda: client.dbsize() > 0)
        one.kill()
        found = await driving.ended()
    assert found.code == 1
    assert "before all is processed: the server is away" in found.outcomes[0].fault


def stalls_after(pause_s: float) -> float:
    """Seconds by the clock until a look each so many seconds finds a stall, of 10 s."""
    stall, now = Stall(10.0), 0.0
    while not stall.lasts("here", now):
        now += pause_s
    return now


def test_time_in_which_the_machine_did_not_run_the_runner_does_not_count_as_a_stall() -> None:
    assert 10 < stalls_after(0.04) < 10.1
    assert 49 < stalls_after(0.5) < 51


def test_whatever_moves_ends_a_stall() -> None:
    stall = Stall(1.0)
    assert not any(stall.lasts(position, position * 0.9) for position in range(20))
