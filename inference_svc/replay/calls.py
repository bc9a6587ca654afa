"""Calls of a model with several rows, put together again from the vectors that gave them. Pure.

Without the deterministic mode a prediction may depend on the other rows of its call. A signal says how many rows that
call had and which one was its own; the others are its neighbours among the vectors of its partition that the model
takes, in the order of the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from inference_svc.determinism import Call
from inference_svc.registry import LoadedModel
from inference_svc.replay.recorded import Entry
from inference_svc.vectors import Vector
from quantmesh.streams.v1 import signal_pb2

_WINDOW = 8192
"""Vectors that are remembered: a call has 4,096 rows at most (INFER_BATCH_SIZE), and they are read by the page."""


@dataclass(slots=True)
class Job:
    """A recorded signal, and what it is to be made again from."""

    entry: Entry
    signal: signal_pb2.Signal
    vector: Vector
    loaded: LoadedModel
    candidate: float | None = None
    """What a model that was asked for makes of the vector."""


class _Sequence:
    """The newest rows that one kind of model takes, in order."""

    def __init__(self) -> None:
        self.rows: deque[list[float]] = deque(maxlen=_WINDOW)
        self.count = 0
        self.pending: dict[tuple[str, str, int, int, int], list[tuple[int, Job]]] = {}


class Calls:
    """The calls of one partition."""

    def __init__(self) -> None:
        self._sequences: dict[tuple[str, int], _Sequence] = {}

    def see(self, vector: Vector) -> int:
        """Take in the next vector of the stream; returns its place among those of its kind."""
        sequence = self._sequences.setdefault((vector.feature_set, len(vector.values)), _Sequence())
        if not vector.unusable:
            sequence.rows.append(vector.values)
            sequence.count += 1
        return sequence.count - 1

    def add(self, job: Job, place: int, call: Call) -> None:
        """Take in a signal whose vector has this place; `ready` gives it back when its call is complete."""
        sequence = self._sequences[job.vector.feature_set, len(job.vector.values)]
        start = place - call.row
        key = (job.entry.strategy, job.loaded.version, job.signal.receipt.generation, start, call.rows)
        sequence.pending.setdefault(key, []).append((call.row, job))

    def ready(self) -> Iterator[tuple[NDArray[np.float64] | None, list[tuple[int, Job]]]]:
        """The calls whose rows have all been seen: their rows, and the jobs with their row; None for rows when some
        are gone. They are forgotten."""
        for sequence in self._sequences.values():
            first = sequence.count - len(sequence.rows)
            for key in [key for key in sequence.pending if key[3] + key[4] <= sequence.count]:
                *_, start, count = key
                jobs = sequence.pending.pop(key)
                at = start - first
                rows = np.array(list(islice(sequence.rows, at, at + count)), np.float64) if at >= 0 else None
                yield rows, jobs

    def unfinished(self) -> Iterator[Job]:
        """The jobs whose calls have rows that never came."""
        for sequence in self._sequences.values():
            for jobs in sequence.pending.values():
                yield from (job for _, job in jobs)
            sequence.pending.clear()
