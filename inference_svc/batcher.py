"""The greedy batcher: runs at once what waits, and never waits for more.

While a call of a model runs, requests gather in its lane; the next call takes what is there, up to the most rows of a
call. At low load a request is alone in its call and waits for nothing; at high load calls fill up by themselves. Short
calls run on the event loop, where they cost no hand-over; long ones on threads, so that the loop goes on. Models take
turns.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from inference_svc.admission import Admission, Terms
from inference_svc.engine import Faults, Matrix, run
from inference_svc.lane import Piece, Work
from inference_svc.placed import MOST_CALLS, Slot, Threads
from inference_svc.registry import LoadedModel
from inference_svc.taps import Taps
from runtime.errors import DeadlineExceededError

INLINE_S = 0.00025
"""Calls that are expected to take no longer run on the event loop: to hand them over would cost as much."""

AHEAD_S = 0.005
"""A call that is expected to take no longer may be placed behind one that runs: nothing overtakes it there."""


class _Ran(NamedTuple):
    """A call of a model that is over."""

    rows: Matrix
    values: Matrix
    faults: Faults
    took_s: float


class Batcher:
    """Scores works in calls of at most `most_rows` rows. All but the long calls of models happens on the event loop."""

    def __init__(
        self,
        admission: Admission,
        *,
        most_rows: int,
        threads: int = 1,
        deterministic: bool = False,
        taps: Taps | None = None,
    ) -> None:
        """`threads` is how many models have long calls running at once."""
        self._admission = admission
        self._taps = taps or Taps()
        self._most_rows = most_rows
        self._deterministic = deterministic
        self._threads = Threads(threads)
        # A model waits in one place: for its turn on the loop, or for a thread. While it has calls on a thread, all its
        # calls go there, in order: rows of one request are scored in theirs.
        self._waiting: set[int] = set()  # by identity
        self._turns: deque[LoadedModel] = deque()
        self._parked: deque[LoadedModel] = deque()
        self._lag_s = self._last_lag_s = 0.0
        self._scheduled_at: float | None = None

    @property
    def waiting_rows(self) -> int:
        """Rows that wait, over all models."""
        rows = 0
        for each in self._turns:
            rows += each.lane.rows
        for each in self._parked:
            rows += each.lane.rows
        for key, slot in self._threads.slots.items():
            if key not in self._waiting:
                rows += slot.loaded.lane.rows
        return rows

    def submit(
        self, loaded: LoadedModel, rows: Matrix, terms: Terms, finished: Callable[[Work], None], request_id: str = ""
    ) -> Work:
        """Let rows [n, columns], n >= 1, that the model can take wait; `finished` is called with the work, later.

        Raises what `Admission.check` raises.
        """
        now = time.perf_counter()
        busy = bool(self._turns or self._threads.slots)
        self._admission.check(
            terms,
            now,
            # Of an idle service nothing is held against a call, not even how late the loop ran before: were all calls
            # refused for that, no turn would ever show that it runs on time again.
            wait_s=self._wait_s(loaded, terms, len(rows), now) if busy else 0.0,
            own_s=loaded.lane.cost.of_calls_of(self._most_rows, len(rows)),
            waiting_rows=self.waiting_rows if busy else 0,
            rows=len(rows),
        )
        work = Work(rows, terms, finished, request_id)
        loaded.lane.push(work)
        self._await_turn(loaded)
        if self._scheduled_at is None:
            self._schedule(now)
        return work

    def close(self) -> None:
        """Let go of the threads; a call that still runs is not waited for."""
        self._threads.close()

    def _wait_s(self, loaded: LoadedModel, terms: Terms, rows: int, now: float) -> float:
        """How long a new work of so many rows would wait: for what goes before it on the loop, or on a thread."""
        lane = loaded.lane
        before_s = lane.cost.of_calls_of(self._most_rows, lane.rows_before(terms.priority))
        if id(loaded) in self._threads.slots:
            return self._lag_s + self._threads.wait_s(loaded, now) + before_s
        if self._threads.slots and self._is_long(loaded, rows):
            before_s += self._threads.wait_s(loaded, now)
        for each in self._turns:
            if each is not loaded:
                before_s += each.lane.cost.of_calls_of(self._most_rows, each.lane.rows_before(terms.priority))
        return self._lag_s + before_s

    def _is_long(self, loaded: LoadedModel, more_rows: int = 0) -> bool:
        """Whether the next call of a model is, of what waits and so many rows more."""
        return loaded.lane.cost.of(min(loaded.lane.rows + more_rows or 1, self._most_rows)) > INLINE_S

    def _await_turn(self, loaded: LoadedModel) -> None:
        """Let a model wait for a turn, if there is anything to run and it does not wait yet."""
        if not loaded.lane or id(loaded) in self._waiting:
            return
        slot = self._threads.slots.get(id(loaded))
        if slot is not None and not self._has_room(slot):
            return
        self._waiting.add(id(loaded))
        self._turns.append(loaded)

    def _schedule(self, now: float) -> None:
        self._scheduled_at = now
        asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """One call of the model whose turn it is."""
        now = time.perf_counter()
        lag_s = now - (self._scheduled_at or now)
        # The lower of the last two: one pause of the machine is no trend.
        self._lag_s, self._last_lag_s = min(lag_s, self._last_lag_s), lag_s
        self._scheduled_at = None
        if self._turns:
            loaded = self._turns.popleft()
            self._waiting.discard(id(loaded))
            if id(loaded) in self._threads.slots or self._is_long(loaded):
                self._call_on_thread(loaded, now)
            else:
                self._call_inline(loaded, now)
        if self._turns:
            self._schedule(time.perf_counter())

    def _call_inline(self, loaded: LoadedModel, now: float) -> None:
        pieces = self._take(loaded, now)
        if pieces:
            self._settle(loaded, pieces, self._run(loaded, pieces))
        self._await_turn(loaded)

    def _call_on_thread(self, loaded: LoadedModel, now: float) -> None:
        slot = self._threads.slot(loaded)
        if slot is None:
            self._waiting.add(id(loaded))
            self._parked.append(loaded)
        elif self._has_room(slot):
            pieces = self._take(loaded, now)
            if pieces:
                self._place(slot, pieces, now)
            else:
                self._free(slot)
            self._await_turn(loaded)

    def _has_room(self, slot: Slot) -> bool:
        """Behind a call that runs there is room for one that is full and short: another would grow, or be in the way.

        There is none while other models wait for a thread: it is theirs as soon as the call is over.
        """
        if not slot.calls:
            return True
        lane = slot.loaded.lane
        full_and_short = lane.rows >= self._most_rows and lane.cost.of(self._most_rows) <= AHEAD_S
        return slot.calls < MOST_CALLS and full_and_short and not self._parked

    def _place(self, slot: Slot, pieces: Sequence[Piece], now: float) -> None:
        loaded, loop = slot.loaded, asyncio.get_running_loop()

        def call() -> None:
            # What became late, or was given up, behind the call before is not run.
            started = time.perf_counter()
            late = [piece.work for piece in pieces if piece.work.late(started)]
            due = [piece for piece in pieces if not piece.work.over and not piece.work.late(started)]
            for piece in due:
                if not piece.first:
                    piece.work.began = started
            loop.call_soon_threadsafe(returned, late, due, self._run(loaded, due) if due else None)

        def returned(late: Sequence[Work], due: Sequence[Piece], ran: _Ran | Exception | None) -> None:
            slot.returned(time.perf_counter())
            self._free(slot)
            self._await_turn(loaded)
            if self._turns and self._scheduled_at is None:
                self._schedule(time.perf_counter())
            _fail_late(late)
            if ran is not None:
                self._settle(loaded, due, ran)

        slot.place(call, loaded.lane.cost.of(sum(piece.count for piece in pieces)), now)

    def _free(self, slot: Slot) -> None:
        """Give a thread that has no calls to the models that wait for one."""
        if not slot.calls:
            self._threads.free(slot)
            self._turns.extend(self._parked)
            self._parked.clear()

    def _take(self, loaded: LoadedModel, now: float) -> Sequence[Piece]:
        taken = loaded.lane.take(self._most_rows, now)
        _fail_late(taken.expired)
        return taken.pieces

    def _run(self, loaded: LoadedModel, pieces: Sequence[Piece]) -> _Ran | Exception:
        """The call, or an error of ours: what a model raises is a fault of its rows."""
        try:
            parts = [piece.rows for piece in pieces]
            rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
            started = time.perf_counter()
            values, faults = run(loaded, rows, deterministic=self._deterministic)
            return _Ran(rows, values, faults, time.perf_counter() - started)
        except Exception as error:
            return error

    def _settle(self, loaded: LoadedModel, pieces: Sequence[Piece], ran: _Ran | Exception) -> None:
        """Give each work its part of a call that is over."""
        if isinstance(ran, Exception):
            for piece in pieces:
                piece.work.fail(ran)
            return
        rows, values, faults, took_s = ran
        loaded.lane.seen(len(rows), took_s)
        batch_rows = 1 if self._deterministic else len(values)
        offset = 0
        for piece in pieces:
            end = offset + piece.count
            if faults:
                for row in range(offset, end):
                    if row in faults:
                        piece.work.fail(faults[row].error(loaded, piece.first + row - offset))
                        break
            piece.work.scored(piece.first, values[offset:end], batch_rows)
            offset = end
        if self._taps.batch is not None:
            self._taps.batch(loaded, pieces, rows, values, faults.keys(), took_s)


def _fail_late(works: Iterable[Work]) -> None:
    for work in works:
        work.fail(DeadlineExceededError("the deadline passed while the call waited: it was not run"))
