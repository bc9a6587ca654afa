"""Runs one schedule: forks the workers, deals out their fates, waits until all is done, and judges the effects.

Workers are forked from a process without threads and event loop, so a life costs milliseconds. SIGKILL at a point is
`streams.failpoints` itself, armed by QUANTMESH_FAIL_POINTS; a zombie stops itself (SIGSTOP) at the point, and goes on
when its lease is long over and others have its partitions.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop
from redis import Redis, RedisCluster
from redis.exceptions import RedisError, ResponseError

from quantmesh.streams.v1 import dead_letter_pb2
from streams import failpoints, keys
from tests.chaos.streams.effects import Effect, Verdict, judge
from tests.chaos.streams.schedules import LIVE, ORDER_EVERY, ORDERS, PARTITIONS, RAW, SIGNALS, VECTORS, Fate, Schedule
from tests.chaos.streams.workers import FENCED_EXIT, process, produce

STALL_S = 25.0
_TICK_S = 0.003
_LOOK_S = 0.03
_PR_SET_PDEATHSIG = 1


@dataclass
class Outcome:
    """What became of a schedule."""

    seed: int
    verdict: Verdict = field(default_factory=Verdict)
    kills: Counter[str] = field(default_factory=Counter)
    """Name of the trouble → how often it happened."""
    seconds: float = 0.0
    fault: str = ""
    """Why it did not come to its end, or who ended as nobody should."""

    @property
    def sound(self) -> bool:
        return self.verdict.sound and not self.fault


@dataclass
class _Life:
    """One process."""

    role: str
    number: int
    life: int
    fate: Fate
    pid: int
    acknowledged: int
    """Read end of its pipe; -1 for a member."""
    due: float
    """When the parent does what the fate says."""
    resumes: float = 0.0
    """When a zombie is woken; it has its heir by then."""
    superseded: bool = False


def control(url: str) -> Redis | RedisCluster:
    """A client for the runner itself."""
    if url.startswith("redis+cluster://"):
        host, _, port = url.removeprefix("redis+cluster://").partition(",")[0].partition(":")
        return RedisCluster(host=host, port=int(port.rstrip("/")), socket_timeout=5)
    return Redis.from_url(url, socket_timeout=5)


class Runner:
    """One schedule on one database that is empty."""

    def __init__(self, url: str, schedule: Schedule, control_url: str | None = None, stall_s: float = STALL_S) -> None:
        self._url = url
        self._schedule = schedule
        self._redis = control(control_url or url)
        self._lives: dict[int, _Life] = {}
        self._acknowledged = dict.fromkeys(range(len(schedule.producers)), 0)
        self._sent: set[int] = set()
        self._ending = False
        self._stall_s = stall_s
        self.outcome = Outcome(schedule.seed)

    def run(self) -> Outcome:
        """Run it to the end, or to the stall that shows a loss."""
        began = time.monotonic()
        try:
            for number in range(len(self._schedule.producers)):
                self._begin("producer", number, 0)
            for number in range(len(self._schedule.members)):
                self._begin("member", number, 0)
            self._until_drained()
            self._end_members()
        finally:
            for pid in list(self._lives):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        self.outcome.verdict = self.judge()
        self.outcome.seconds = time.monotonic() - began
        self._redis.close()
        return self.outcome

    # The workers' lives

    def _begin(self, role: str, number: int, life: int) -> None:
        plan = (self._schedule.producers if role == "producer" else self._schedule.members)[number]
        fate = plan.fates[life] if life < len(plan.fates) and not self._ending else LIVE
        name = plan.name(role, self._schedule.seed, number, life)
        skew_s = plan.skews_s[life] if life < len(plan.skews_s) else 0.0
        reading, writing = os.pipe() if role == "producer" else (-1, -1)
        start = self._acknowledged.get(number, 0)
        pid = os.fork()
        if pid == 0:
            if role == "producer":
                os.close(reading)
                work: Coroutine[Any, Any, int] = produce(
                    self._url, self._schedule, number, name, start, lambda at: _tell(writing, at)
                )
            else:
                work = process(self._url, self._schedule, name)
            _live(fate, skew_s, work)
        if role == "producer":
            os.close(writing)
            os.set_blocking(reading, False)
        due = time.monotonic() + fate.after_s if fate.after_s else 0.0
        self._lives[pid] = _Life(role, number, life, fate, pid, reading, due)

    def _tick(self) -> None:
        now = time.monotonic()
        for life in list(self._lives.values()):
            self._read(life)
            if life.resumes and now >= life.resumes:
                life.resumes = 0.0
                os.kill(life.pid, signal.SIGCONT)
            elif life.due and now >= life.due:
                life.due = 0.0
                os.kill(life.pid, signal.SIGKILL if life.fate.kind == "kill" else signal.SIGTERM)
        while self._lives:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                self._stopped(self._lives[pid])
            else:
                self._ended(self._lives.pop(pid), status)
        time.sleep(_TICK_S)

    def _stopped(self, life: _Life) -> None:
        """A zombie: its heir begins at once, and it wakes when the lease is long over."""
        life.resumes = time.monotonic() + 2.5 * self._schedule.lease_ms / 1000
        life.superseded = True
        self.outcome.kills[str(life.fate)] += 1
        if not self._ending:
            self._begin(life.role, life.number, life.life + 1)

    def _ended(self, life: _Life, status: int) -> None:
        self._read(life)
        if life.acknowledged >= 0:
            os.close(life.acknowledged)
        code = os.waitstatus_to_exitcode(status)
        killed = code == -signal.SIGKILL and life.fate.kind in ("point", "kill")
        left = code in (0, -signal.SIGTERM) and life.fate.kind == "leave"
        if killed or left:
            self.outcome.kills[str(life.fate)] += 1
        elif code == FENCED_EXIT and life.role == "producer":
            self.outcome.kills["(fenced)"] += 1
        elif code != 0:
            self.outcome.fault = self.outcome.fault or f"{life.role} {life.number} ended with code {code}"
        if life.role == "producer" and code == 0:
            self._sent.add(life.number)
        elif not life.superseded and not self._ending:
            self._begin(life.role, life.number, life.life + 1)

    def _read(self, life: _Life) -> None:
        with suppress(BlockingIOError):
            while life.acknowledged >= 0 and (said := os.read(life.acknowledged, 4096)):
                last = struct.unpack("<I", said[-4:])[0]
                self._acknowledged[life.number] = max(self._acknowledged[life.number], last)

    # The end

    def _until_drained(self) -> None:
        looked, moved, position = 0.0, time.monotonic(), None
        while True:
            self._tick()
            now = time.monotonic()
            if now - looked < _LOOK_S:
                continue
            looked = now
            try:
                behind, here = self._behind()
            except (RedisError, OSError):  # it is being restarted
                moved = now
                continue
            here = (here, tuple(self._acknowledged.values()), len(self._lives))
            if here != position:
                position, moved = here, now
            zombies = any(life.resumes for life in self._lives.values())
            if len(self._sent) == len(self._schedule.producers) and not behind and not zombies:
                return
            if now - moved > self._stall_s:
                self.outcome.fault = self.outcome.fault or f"nothing moved for {self._stall_s:g} s"
                return

    def _behind(self) -> tuple[int, object]:
        """How many partitions the groups have not finished, and where they are."""
        behind, positions = 0, []
        for stream, group in ((RAW, "feature_processor"), (VECTORS, "scorer")):
            for partition in range(PARTITIONS):
                try:
                    about = self._redis.xinfo_stream(keys.entries(stream, partition))
                except ResponseError:  # there is none yet
                    continue
                offset = self._redis.hget(keys.group(stream, group, partition), "offset") or b"0-0"
                behind += about["last-generated-id"] != offset
                positions.append(offset)
        return behind, tuple(positions)

    def _end_members(self) -> None:
        self._ending = True
        for life in self._lives.values():
            if life.role == "member":
                life.due = 0.0
                os.kill(life.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while self._lives and time.monotonic() < deadline:
            self._tick()
        if self._lives:
            self.outcome.fault = self.outcome.fault or "a member did not end within 5 s of SIGTERM"

    def judge(self) -> Verdict:
        """Judge the effects in every output, and the dead letters."""
        published, poison = self._schedule.published, self._schedule.poison
        good = {key: [n for n in numbers if (key, n) not in poison] for key, numbers in published.items()}
        dead = {key: [n for n in numbers if (key, n) in poison] for key, numbers in published.items()}
        orders = {key: [n for n in numbers if n % ORDER_EVERY == 0] for key, numbers in good.items()}
        verdict = judge(good, self._effects(VECTORS))
        verdict += judge(good, self._effects(SIGNALS))
        verdict += judge(orders, self._effects(ORDERS))
        letters = (dead_letter_pb2.DeadLetter.FromString(p).payload for p in self._payloads(f"deadletter.{RAW}"))
        return verdict + judge(dead, map(Effect.of, letters))

    def _effects(self, stream: str) -> Iterator[Effect]:
        return map(Effect.of, self._payloads(stream))

    def _payloads(self, stream: str) -> Iterator[bytes]:
        for partition in range(PARTITIONS):
            for _, fields in self._redis.xrange(keys.entries(stream, partition)):
                yield fields[keys.PAYLOAD]


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
