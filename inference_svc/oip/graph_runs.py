"""Runs whole graphs, for requests that want more than the prediction: each in a call of its own, on a thread.

The same admission and priorities as in the batcher; only that rows of several requests do not share a call.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_svc.admission import Admission, Terms
from inference_svc.engine import Fault
from inference_svc.registry import LoadedModel
from modelstore.onnx_model import OnnxModel
from modelstore.signature import Outputs
from runtime.errors import DeadlineExceededError

Feed = Mapping[str, NDArray[Any]]


class Run:
    """A request's rows on their way through a graph. `began` is in seconds of `time.perf_counter()`."""

    __slots__ = ("_over", "began", "feed", "loaded", "own_s", "rows", "terms")

    def __init__(self, loaded: LoadedModel, feed: Feed, rows: int, terms: Terms, own_s: float) -> None:
        self.loaded = loaded
        self.feed = feed
        self.rows = rows
        self.terms = terms
        self.own_s = own_s
        self.began = 0.0
        self._over: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """Whether it has ended, or nobody waits for it any more."""
        return self._over.done()

    def end(self, outcome: Outputs | Exception) -> None:
        """End it, unless it has ended."""
        if self.over:
            return
        if isinstance(outcome, Exception):
            self._over.set_exception(outcome)
        else:
            self._over.set_result(outcome)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if not self._over.cancel() and not self._over.cancelled():
            self._over.exception()  # seen, so that asyncio need not complain of a fault that nobody asked for

    async def result(self) -> Outputs:
        """What the graph gave. Raises FailedPreconditionError (MODEL_FAILED, NON_FINITE_PREDICTION) for the first row
        that has no prediction, DeadlineExceededError when the deadline passed while it waited.
        """
        return await self._over


class GraphRuns:
    """The queue. All but the calls happens on the event loop."""

    def __init__(self, admission: Admission, *, threads: int, deterministic: bool) -> None:
        """`threads` is how many calls run at once; `deterministic` gives each row a call of its own."""
        self._admission = admission
        self._threads = threads
        self._deterministic = deterministic
        self._waiting: list[tuple[int, int, Run]] = []
        self._number = 0
        self._running: dict[Run, asyncio.Future[None]] = {}

    def submit(self, loaded: LoadedModel, feed: Feed, rows: int, terms: Terms) -> Run:
        """Let checked rows wait for a call. Raises what `Admission.check` raises."""
        now = time.perf_counter()
        run = Run(loaded, feed, rows, terms, loaded.lane.cost.of(rows))
        before = [each for _, _, each in self._waiting if not each.over]
        wait_s = 0.0
        if len(self._running) >= self._threads:
            wait_s = min(max(each.began + each.own_s - now, 0.0) for each in self._running)
            wait_s += sum(each.own_s for each in before if each.terms.priority <= terms.priority) / self._threads
        self._admission.check(
            terms, now, wait_s=wait_s, own_s=run.own_s, waiting_rows=sum(each.rows for each in before), rows=rows
        )
        self._number += 1
        heapq.heappush(self._waiting, (terms.priority, self._number, run))
        self._start()
        return run

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._running) < self._threads:
            run = heapq.heappop(self._waiting)[2]
            now = time.perf_counter()
            if run.terms.deadline is not None and run.terms.deadline <= now:
                run.end(DeadlineExceededError("the deadline passed while the call waited: it was not run"))
            if not run.over:
                run.began = now
                self._running[run] = asyncio.ensure_future(self._call(loop, run))

    async def _call(self, loop: asyncio.AbstractEventLoop, run: Run) -> None:
        outcome: Outputs | Exception
        try:
            outcome = await loop.run_in_executor(None, outputs, run.loaded, run.feed, run.rows, self._deterministic)
        except Exception as error:
            outcome = error
        run.loaded.lane.calls.seen(run.rows, time.perf_counter() - run.began)
        del self._running[run]
        run.end(outcome)
        self._start()


def outputs(loaded: LoadedModel, feed: Feed, rows: int, deterministic: bool = False) -> Outputs:
    """What the graph gives for so many rows. Raises as `Run.result`.

    A model may fail as a whole over one row: then each is run alone, which tells the row.
    """
    model = loaded.model
    assert isinstance(model, OnnxModel)  # the loader makes no other
    if deterministic and rows > 1:
        found = _one_by_one(loaded, model, feed, rows)
    else:
        try:
            found = model.outputs(feed)
        except Exception:  # what a runtime raises shares no base but this
            found = _one_by_one(loaded, model, feed, rows)
    predictions = found[model.prediction.output].reshape(rows, -1)[:, model.prediction.column]
    if not np.isfinite(predictions).all():
        row = int(np.flatnonzero(~np.isfinite(predictions))[0])
        raise Fault("NON_FINITE_PREDICTION", str(float(predictions[row]))).error(loaded, row)
    return found


def _one_by_one(loaded: LoadedModel, model: OnnxModel, feed: Feed, rows: int) -> Outputs:
    each: list[Outputs] = []
    for row in range(rows):
        try:
            each.append(model.outputs({name: values[row : row + 1] for name, values in feed.items()}))
        except Exception as error:
            raise Fault("MODEL_FAILED", str(error)).error(loaded, row) from error
    # What is no tensor is not asked for over the protocol.
    names = [name for name, values in each[0].items() if isinstance(values, np.ndarray)]
    return {name: np.concatenate([found[name] for found in each]) for name in names}
