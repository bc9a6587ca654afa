"""One challenger in the shadow process: loaded, fed from a queue, scored on a thread of its own, within a budget.

The queue needs no bound of its own: the replica sends no more rows than may be on their way (`tap`).

Each row is scored in a call of its own, so that its prediction depends on nothing but the row and the model, and its
latency is its own too. A caller that asks for the challenger goes before the rows that are scored beside a champion.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import structlog

from inference_svc import rows
from inference_svc.engine import predict_rows
from inference_svc.loader import Loader
from inference_svc.registry import LoadedModel
from inference_svc.shadow import frames
from inference_svc.shadow.asks import full, said
from inference_svc.shadow.budget import Budget
from inference_svc.shadow.counts import Counts
from inference_svc.shadow.pairs import Slot, make_pair
from inference_svc.shadow.recorder import Recorder
from modelstore.manifest import as_document
from runtime.errors import QuantmeshError, UnavailableError

log = structlog.get_logger()

MOST_ASKS = 256
"""Callers that wait for one challenger."""

_SLICE_S = 0.002
"""After so long on the thread, what was scored is recorded, and the budget is looked at."""

_LONGEST_PAUSE_S = 1.0

_FIRST_RETRY_S, _LAST_RETRY_S = 0.25, 30.0


class _Work(NamedTuple):
    slot: Slot
    rows: frames.Rows


class _Scored(NamedTuple):
    """What became of the rows of one work, each in its call."""

    work: _Work
    predictions: list[float | None]
    """None where there is none."""
    seconds: list[float]


class Challenger:
    """A version that is a challenger of some strategy. `run` runs until it is cancelled."""

    def __init__(
        self,
        version: str,
        loader: Loader,
        recorder: Recorder,
        counts: Counts,
        budget: Budget,
        tell: Callable[[bytes], None],
    ) -> None:
        self._version = version
        self._loader = loader
        self._recorder = recorder
        self._counts = counts
        self._budget = budget
        self._tell = tell
        self._loaded: LoadedModel | None = None
        self._works: deque[_Work] = deque()
        self._asks: deque[frames.Ask] = deque()
        self._news = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing waits."""
        self.idle.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="challenger")

    def score(self, slot: Slot, rows: frames.Rows) -> None:
        """Let rows that a champion has scored wait."""
        if self._loaded is None:
            self._counts.of(slot.strategy).drop("no_model", len(rows.values))
        else:
            self._works.append(_Work(slot, rows))
            self._wake()

    def ask(self, ask: frames.Ask) -> None:
        """Let rows wait that somebody wants an answer to."""
        if self._loaded is None:
            error = UnavailableError("it is not loaded", reason="CHALLENGER_NOT_READY")
            self._tell(frames.note({"refused": ask.number, "error": said(error)}))
        elif len(self._asks) >= MOST_ASKS:
            self._tell(frames.note({"refused": ask.number, "error": said(full())}))
        else:
            self._asks.append(ask)
            self._wake()

    def close(self) -> None:
        """Take no more: what waits is dropped, and who asks is told."""
        self._loaded = None
        while self._works:
            work = self._works.popleft()
            self._counts.of(work.slot.strategy).drop("no_model", len(work.rows.values))
        while self._asks:
            self.ask(self._asks.popleft())
        self._thread.shutdown(wait=False)

    async def run(self) -> None:
        """Load, then score what comes."""
        loaded = await self._load()
        self._loaded = loaded
        document = {"loaded": self._version, "loaded_at_us": loaded.loaded_at_us}
        self._tell(frames.note({**document, "manifest": as_document(loaded.manifest)}))
        self._budget.begin()
        loop = asyncio.get_running_loop()
        while True:
            pause_s = self._budget.wait_s() if self._works or self._asks else 0.0
            if pause_s:
                await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S))
            elif self._asks:
                ask = self._asks.popleft()
                self._tell(await loop.run_in_executor(self._thread, _answer, loaded, ask))
            elif self._works:
                # What is under way is still in the queue: it is counted when it is scored, and not before.
                works = list(self._works)
                for scored in await loop.run_in_executor(self._thread, _score, loaded, works):
                    if self._works:  # or it was closed meanwhile
                        self._works.popleft()
                        self._take(loaded, scored)
            else:
                self._news.clear()
                self.idle.set()
                await self._news.wait()

    def _wake(self) -> None:
        self.idle.clear()
        self._news.set()

    async def _load(self) -> LoadedModel:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                return await self._loader.load(self._version)
            except Exception as error:  # whatever is wrong with it, the others are scored
                known = isinstance(error, QuantmeshError)
                text = f"{error.reason}: {error.message}" if isinstance(error, QuantmeshError) else repr(error)
                log.error(
                    "cannot load a challenger", version=self._version, error=text, exc_info=None if known else error
                )
                self._tell(frames.note({"failed": self._version, "error": text}))
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    def _take(self, loaded: LoadedModel, scored: _Scored) -> None:
        slot, rows_ = scored.work
        counts = self._counts.of(slot.strategy)
        for row, (prediction, seconds) in enumerate(zip(scored.predictions, scored.seconds, strict=True)):
            if prediction is None:
                counts.drop("failed", 1)
                continue
            counts.scored += 1
            counts.called(seconds)
            pair = make_pair(slot, rows_, row, loaded, prediction, seconds)
            self._recorder.record(slot.strategy, pair.request_id, pair.SerializeToString())


def _score(loaded: LoadedModel, works: list[_Work]) -> list[_Scored]:
    """On the thread: the first works, as many as a slice of time allows, at least one."""
    done = []
    until = time.perf_counter() + _SLICE_S
    for work in works:
        predictions: list[float | None] = []
        seconds = []
        for row in work.rows.values:
            started = time.perf_counter()
            predictions.append(_predict(loaded, row.reshape(1, -1)))
            seconds.append(time.perf_counter() - started)
        done.append(_Scored(work, predictions, seconds))
        if time.perf_counter() > until:
            break
    return done


def _predict(loaded: LoadedModel, row: frames.Matrix) -> float | None:
    """The prediction of one row; None when there is none that is finite."""
    if row.shape[1] != loaded.model.columns or loaded.model.unfit(row) is not None:
        return None
    try:
        value = float(loaded.model.predict(row)[0])
    except Exception:  # what a runtime raises shares no base but this
        return None
    return value if np.isfinite(value) else None


def _answer(loaded: LoadedModel, ask: frames.Ask) -> bytes:
    """On the thread: the frame that answers an ask."""
    try:
        rows.check(ask.values, loaded, rows.of_batch)
        values, faults, _ = predict_rows(loaded, ask.values, deterministic=True)
        for fault in faults.values():
            raise fault
    except QuantmeshError as error:
        return frames.note({"refused": ask.number, "error": said(error)})
    return frames.answer_frame(ask.number, values)
