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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from inference_svc.admission import Admission, Terms
from inference_svc.engine import Faults, Matrix, run
from inference_svc.lane import Piece, Work
from inference_svc.registry import LoadedModel
from inference_svc.taps import Taps
from runtime.errors import DeadlineExceededError

INLINE_S = 0.002
"""Calls that are expected to take no longer run on the event loop."""


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
        """`threads` is how many long calls run at once, of different models."""
        self._admission = admission
        self._taps = taps or Taps()
        self._most_rows = most_rows
        self._deterministic = deterministic
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="model")
        self._free_threads = threads
        # A model is in one place: waiting for its turn on the loop, for a thread, or for its call to return.
        self._placed: set[int] = set()  # by identity
        self._turns: deque[LoadedModel] = deque()
        self._parked: deque[LoadedModel] = deque()
        self._running: dict[int, tuple[LoadedModel, float]] = {}
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
        for each, _ in self._running.values():
            rows += each.lane.rows
        return rows

    def submit(
        self, loaded: LoadedModel, rows: Matrix, terms: Terms, finished: Callable[[Work], None], request_id: str = ""
    ) -> Work:
        """Let rows [n, columns], n >= 1, that the model can take wait; `finished` is called with the work, later.

        Raises what `Admission.check` raises.
        """
        now = time.perf_counter()
        busy = bool(self._turns or self._running)
        self._admission.check(
            terms,
            now,
            # Of an idle service nothing is held against a call, not even how late the loop ran before: were all calls
            # refused for that, no turn would ever show that it runs on time again.
            wait_s=self._wait_s(loaded, terms, now) if busy else 0.0,
            own_s=loaded.lane.cost.of_calls_of(self._most_rows, len(rows)),
            waiting_rows=self.waiting_rows if busy else 0,
            rows=len(rows),
        )
        work = Work(rows, terms, finished, request_id)
        if id(loaded) not in self._placed:
            self._placed.add(id(loaded))
            self._turns.append(loaded)
        loaded.lane.push(work)
        if self._scheduled_at is None:
            self._schedule(now)
        return work

    def close(self) -> None:
        """Let go of the threads; a call that still runs is not waited for."""
        self._threads.shutdown(wait=False)

    def _wait_s(self, loaded: LoadedModel, terms: Terms, now: float) -> float:
        """How long a new work would wait: for what goes before it on the loop, or on its model's thread."""
        lane = loaded.lane
        before_s = lane.cost.of_calls_of(self._most_rows, lane.rows_before(terms.priority))
        running = self._running.get(id(loaded))
        if running is not None:
            return self._lag_s + max(running[1] - now, 0.0) + before_s
        if self._is_long(loaded) and not self._free_threads:
            before_s += max(min(until for _, until in self._running.values()) - now, 0.0)
        for each in self._turns:
            if each is not loaded:
                before_s += each.lane.cost.of_calls_of(self._most_rows, each.lane.rows_before(terms.priority))
        return self._lag_s + before_s

    def _is_long(self, loaded: LoadedModel) -> bool:
        return loaded.lane.cost.of(min(loaded.lane.rows or 1, self._most_rows)) > INLINE_S

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
            if not self._is_long(loaded):
                self._call_inline(loaded, now)
            elif self._free_threads:
                self._call_on_thread(loaded, now)
            else:
                self._parked.append(loaded)
        if self._turns:
            self._schedule(time.perf_counter())

    def _call_inline(self, loaded: LoadedModel, now: float) -> None:
        pieces, rows = self._take(loaded, now)
        if pieces:
            started = time.perf_counter()
            values, faults = run(loaded, rows, deterministic=self._deterministic)
            took_s = time.perf_counter() - started
            loaded.lane.seen(len(rows), took_s)
            self._hand_out(loaded, pieces, values, faults)
            if self._taps.batch is not None:
                self._taps.batch(loaded, pieces, rows, values, faults.keys(), took_s)
        self._place(loaded)

    def _place(self, loaded: LoadedModel) -> None:
        """Let a model have another turn, if anything of it waits."""
        if loaded.lane:
            self._turns.append(loaded)
        else:
            self._placed.discard(id(loaded))

    def _call_on_thread(self, loaded: LoadedModel, now: float) -> None:
        pieces, rows = self._take(loaded, now)
        if not pieces:
            self._place(loaded)
            return
        loop = asyncio.get_running_loop()
        self._free_threads -= 1
        self._running[id(loaded)] = (loaded, now + loaded.lane.cost.of(len(rows)))

        def call() -> None:
            started = time.perf_counter()
            values, faults = run(loaded, rows, deterministic=self._deterministic)
            loop.call_soon_threadsafe(returned, values, faults, time.perf_counter() - started)

        def returned(values: Matrix, faults: Faults, took_s: float) -> None:
            self._free_threads += 1
            del self._running[id(loaded)]
            loaded.lane.seen(len(rows), took_s)
            self._place(loaded)
            self._turns.extend(self._parked)
            self._parked.clear()
            self._hand_out(loaded, pieces, values, faults)
            if self._taps.batch is not None:
                self._taps.batch(loaded, pieces, rows, values, faults.keys(), took_s)
            if self._turns and self._scheduled_at is None:
                self._schedule(time.perf_counter())

        self._threads.submit(call)

    def _take(self, loaded: LoadedModel, now: float) -> tuple[Sequence[Piece], Matrix]:
        taken = loaded.lane.take(self._most_rows, now)
        for work in taken.expired:
            work.fail(DeadlineExceededError("the deadline passed while the call waited: it was not run"))
        rows = [piece.rows for piece in taken.pieces]
        return taken.pieces, rows[0] if len(rows) == 1 else np.concatenate(rows) if rows else np.empty((0, 0))

    def _hand_out(self, loaded: LoadedModel, pieces: Sequence[Piece], values: Matrix, faults: Faults) -> None:
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
