"""Runs one schedule: begins the workers' lives, deals out their fates, waits until all is done, and judges the effects.

A zombie is woken when its lease is long over and others have its partitions.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis import Redis, RedisCluster
from redis.exceptions import RedisError, ResponseError

from quantmesh.streams.v1 import dead_letter_pb2
from streams import keys
from tests.chaos.streams import stacks
from tests.chaos.streams.effects import Effect, Verdict, judge
from tests.chaos.streams.lives import Acknowledge, Life, Role, begin
from tests.chaos.streams.schedules import (
    LIVE,
    ORDER_EVERY,
    ORDERS,
    PARTITIONS,
    RAW,
    SIGNALS,
    VECTORS,
    Schedule,
    WorkerPlan,
)
from tests.chaos.streams.stall import Stall
from tests.chaos.streams.workers import FENCED_EXIT, process, produce

STALL_S = 25.0
_TICK_S = 0.003
_LOOK_S = 0.03
_ANSWER_S = 3.0
"""For how long a fault waits for the stacks of the workers that live."""


@dataclass
class Outcome:
    """What became of a schedule."""

    seed: int
    verdict: Verdict = field(default_factory=Verdict)
    kills: Counter[str] = field(default_factory=Counter)
    """Name of the trouble → how often it happened."""
    seconds: float = 0.0
    fault: str = ""
    """Why it did not come to its end, or who ended as nobody should: one line, and then what those concerned said."""

    @property
    def sound(self) -> bool:
        return self.verdict.sound and not self.fault


def control(url: str) -> Redis | RedisCluster:
    """A client for the runner itself."""
    if url.startswith("redis+cluster://"):
        host, _, port = url.removeprefix("redis+cluster://").partition(",")[0].partition(":")
        return RedisCluster(host=host, port=int(port.rstrip("/")), socket_timeout=5)
    return Redis.from_url(url, socket_timeout=5)


class Runner:
    """One schedule on one database that is empty."""

    def __init__(
        self,
        url: str,
        schedule: Schedule,
        control_url: str | None = None,
        stall_s: float = STALL_S,
        *,
        keep_stderr: bool = True,
    ) -> None:
        """`keep_stderr` keeps what the workers write there for the report of a fault; else it goes where ours goes."""
        self._url = url
        self._schedule = schedule
        self._redis = control(control_url or url)
        self._lives: dict[int, Life] = {}
        self._acknowledged = dict.fromkeys(range(len(schedule.producers)), 0)
        self._heard = 0
        """How often producers have acknowledged something; zombies that send again do, too."""
        self._sent: set[int] = set()
        self._ending = False
        self._stall_s = stall_s
        self._keep_stderr = keep_stderr
        self.outcome = Outcome(schedule.seed)

    def run(self) -> Outcome:
        """Run it to the end, or to the stall that shows a loss."""
        began = time.monotonic()
        try:
            for number in range(len(self._schedule.producers)):
                self._begin("producer", number, 0)
            for number in range(len(self._schedule.members)):
                self._begin("member", number, 0)
            if self._until("all is processed", self._drained):
                self._tell_members_to_end()
                self._until("the members have ended", lambda _behind: not self._lives)
        finally:
            for pid in list(self._lives):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        try:
            self.outcome.verdict = self.judge()
        except (RedisError, OSError) as error:
            self._blame(f"the effects cannot be read: {error!r}")
        self.outcome.seconds = time.monotonic() - began
        self._redis.close()
        return self.outcome

    # The workers' lives

    def _plan(self, role: Role, number: int) -> WorkerPlan:
        return (self._schedule.producers if role == "producer" else self._schedule.members)[number]

    def _begin(self, role: Role, number: int, turn: int) -> None:
        plan = self._plan(role, number)
        fate = plan.fates[turn] if turn < len(plan.fates) and not self._ending else LIVE
        name = plan.name(role, self._schedule.seed, number, turn)
        skew_s = plan.skews_s[turn] if turn < len(plan.skews_s) else 0.0

        def work(acknowledge: Acknowledge) -> Coroutine[Any, Any, int]:
            if role == "member":
                return process(self._url, self._schedule, name)
            return produce(self._url, self._schedule, number, name, self._acknowledged[number], acknowledge)

        life = begin(role, number, turn, fate, skew_s, work, keep_stderr=self._keep_stderr)
        self._lives[life.pid] = life

    def _tick(self) -> None:
        now = time.monotonic()
        for life in list(self._lives.values()):
            self._read(life)
            if life.resumes and now >= life.resumes:
                life.resumes = 0.0
                os.kill(life.pid, signal.SIGCONT)
            elif life.due and now >= life.due:
                life.due, life.told = 0.0, True
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

    def _stopped(self, life: Life) -> None:
        """A zombie: its heir begins at once, and it wakes when the lease is long over."""
        life.resumes = time.monotonic() + 2.5 * self._schedule.lease_ms / 1000
        life.superseded = True
        self.outcome.kills[str(life.fate)] += 1
        if not self._ending:
            self._begin(life.role, life.number, life.turn + 1)

    def _ended(self, life: Life, status: int) -> None:
        self._read(life)
        code = os.waitstatus_to_exitcode(status)
        kind, orderly = life.fate.kind, -signal.SIGTERM if life.role == "producer" else 0
        killed = code == -signal.SIGKILL and (kind == "point" or (kind == "kill" and life.told))
        if killed or (kind == "leave" and life.told and code == orderly):
            self.outcome.kills[str(life.fate)] += 1
        elif code == FENCED_EXIT and life.superseded and self._plan(life.role, life.number).same_name:
            self.outcome.kills["(fenced)"] += 1
        elif code != 0:
            self._blame(f"{life} ended with code {code}", life)
        life.close()
        if life.role == "producer" and code == 0:
            self._sent.add(life.number)
        elif not life.superseded and not self._ending:
            self._begin(life.role, life.number, life.turn + 1)

    def _read(self, life: Life) -> None:
        last = life.acknowledged()
        if last is not None:
            self._heard += 1
            self._acknowledged[life.number] = max(self._acknowledged[life.number], last)

    def _blame(self, what: str, *lives: Life) -> None:
        """Note a fault, with what the processes concerned said last. The first is the one that counts."""
        if not self.outcome.fault:
            said = "".join(f"\n  {life}{life.last_words()}" for life in lives)
            self.outcome.fault = what + said

    def _ask_where_they_are(self) -> None:
        """Let those that live print where they stand; one that is stopped, or only begins, cannot."""
        for life in self._lives.values():
            if not life.resumes:
                os.kill(life.pid, stacks.ASK)
        deadline = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline and not all(stacks.END in life.last_words() for life in self._lives.values()):
            time.sleep(_LOOK_S)

    # The end

    def _until(self, what: str, true: Callable[[int], bool]) -> bool:
        """Go on until it is true, which is asked with the number of partitions that are behind. False, and a fault,
        when nothing moves any more."""
        stall = Stall(self._stall_s)
        looked = 0.0
        while True:
            self._tick()
            now = time.monotonic()
            if now - looked < _LOOK_S:
                continue
            looked = now
            try:
                behind, where = self._behind()
                if true(behind):
                    return True
                at = f"{behind} partitions are behind, producers have sent {self._acknowledged}"
            except (RedisError, OSError) as error:  # it is being restarted, or will never come back
                where, at = "away", f"the server is away: {error!r}"
            if stall.lasts((where, self._heard, len(self._lives)), now):
                self._ask_where_they_are()
                self._blame(f"nothing has moved for {self._stall_s:g} s, before {what}: {at}", *self._lives.values())
                return False

    def _drained(self, behind: int) -> bool:
        """Whether nothing more is to come: from the producers, zombies among them, and out of the processors."""
        done = len(self._sent) == len(self._schedule.producers)
        alive = any(life.role == "producer" or life.resumes for life in self._lives.values())
        return done and not alive and not behind

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

    def _tell_members_to_end(self) -> None:
        self._ending = True
        for life in self._lives.values():
            life.due = 0.0
            if not life.told:  # a second signal may find one that ends without its handler, and kill it
                os.kill(life.pid, signal.SIGTERM)

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
