"""Takes what champions have scored, and sends it to the shadow process a moment later.

On the path of an answer it puts a reference into a queue, and nothing else. A timer packs and sends what has gathered,
in portions, without ever waiting. What is on its way, from here until the shadow process has told what became of it, is
bounded: more is dropped, and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from inference_svc.registry import LoadedModel
from inference_svc.rows import Matrix
from inference_svc.shadow import frames
from inference_svc.shadow.accounts import Account
from inference_svc.shadow.frames import Origin
from inference_svc.taps import Part, ScoredVector
from inference_svc.vectors import Vector
from runtime.times import now_us

GATHER_S = 0.1
"""From the first row that is taken until what has gathered is sent. By then the answers are out, and the shadow process
is not woken for each of them: what it does at once, it does in less time."""

PORTION_BYTES, PAUSE_S = 16 * 1024, 0.005
"""So much is packed at once, at most, and then one frame more: some tens of microseconds of the event loop, which a
call in flight may wait for. The rest comes after a pause."""

US = 1e6


@dataclass(slots=True)
class Assignment:
    """A champion and its challenger at one generation; `slot` names it to the shadow process."""

    slot: int
    strategy: str
    generation: int
    champion: LoadedModel
    challenger_version: str
    account: Account
    most_rows: int
    """On their way, at most."""
    ready: bool = False
    """Whether the shadow process has loaded the challenger."""


class _Gathered(NamedTuple):
    assignment: Assignment
    rows: int
    pack: Callable[[], bytes]


class Tap:
    """The queue. `batch` and `vectors` are what `Taps` calls."""

    def __init__(self, send: Callable[[bytes], bool], is_up: Callable[[], bool]) -> None:
        """`send` takes a frame, or is False when there is no room for it."""
        self._send = send
        self._is_up = is_up
        self._gathered: deque[_Gathered] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.by_champion: Mapping[str, Assignment] = {}

    def batch(
        self,
        loaded: LoadedModel,
        parts: Sequence[Part],
        rows: Matrix,
        values: Matrix,
        faults: Collection[int],
        took_s: float,
    ) -> None:
        """Take a call of a model, if a champion with a challenger is what it was."""
        assignment = self.by_champion.get(loaded.version)
        if assignment is None or not self._accepts(assignment, len(rows) - len(faults)):
            return
        scored_at_us, latency_us, batch_rows = now_us(), took_s * US, len(rows)

        def pack() -> bytes:
            origins = [
                Origin(part.request_id, row) for part in parts for row in range(part.first, part.first + part.count)
            ]
            kept_rows, kept_values = rows, values
            if faults:
                kept = [row for row in range(len(origins)) if row not in faults]
                origins = [origins[row] for row in kept]
                kept_rows, kept_values = rows[kept], values[kept]
            return frames.rows_frame(
                frames.Rows(assignment.slot, scored_at_us, latency_us, batch_rows, kept_rows, kept_values, origins)
            )

        self._gather(assignment, len(rows) - len(faults), pack)

    def vectors(self, outcomes: Sequence[ScoredVector], mean_s: float) -> None:
        """Take vectors of the stream, with what champions with challengers made of them."""
        found: dict[str, list[tuple[Vector, float, int]]] = {}
        for outcome in outcomes:
            for serving, value, call in outcome.scored.predictions:
                assignment = self.by_champion.get(serving.champion.version)
                # The id of a signal depends on its generation.
                if assignment is not None and assignment.generation == serving.generation:
                    found.setdefault(serving.champion.version, []).append((outcome.vector, value, call.rows))
        scored_at_us = now_us()
        for version, scored in found.items():
            assignment = self.by_champion[version]
            if self._accepts(assignment, len(scored)):
                self._gather(assignment, len(scored), _packing(assignment, scored, scored_at_us, mean_s))

    def flush(self) -> None:
        """Send all that has gathered, now."""
        while self._gathered:
            self._send_portion()

    def lose(self) -> None:
        """The shadow process is gone, and with it all that was sent; what has gathered goes the same way."""
        self._gathered.clear()

    def _accepts(self, assignment: Assignment, rows: int) -> bool:
        if not rows:
            return False
        account = assignment.account
        has_room = account.in_flight + rows <= assignment.most_rows
        account.offer(rows)
        if not self._is_up():
            account.drop("down", rows)
        elif not assignment.ready:
            account.drop("no_model", rows)
        elif not has_room:
            account.drop("full", rows)
        else:
            return True
        return False

    def _gather(self, assignment: Assignment, rows: int, pack: Callable[[], bytes]) -> None:
        self._gathered.append(_Gathered(assignment, rows, pack))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._send_some)

    def _send_some(self) -> None:
        self._timer = None
        self._send_portion()
        if self._gathered:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._send_some)

    def _send_portion(self) -> None:
        sent = 0
        while self._gathered and sent < PORTION_BYTES:
            gathered = self._gathered.popleft()
            frame = gathered.pack()
            sent += len(frame)
            if not self._send(frame):
                gathered.assignment.account.drop("full", gathered.rows)


def _packing(
    assignment: Assignment, scored: Sequence[tuple[Vector, float, int]], scored_at_us: int, mean_s: float
) -> Callable[[], bytes]:
    def pack() -> bytes:
        columns = assignment.champion.model.columns
        values = np.fromiter(chain.from_iterable(vector.values for vector, _, _ in scored), np.float64)
        return frames.rows_frame(
            frames.Rows(
                assignment.slot,
                scored_at_us,
                mean_s * US,
                scored[0][2],
                values.reshape(len(scored), columns),
                np.array([value for _, value, _ in scored]),
                [Origin("", 0, vector.symbol, vector.vector_hash, vector.as_of_us) for vector, _, _ in scored],
            )
        )

    return pack
