"""One partition of a replay: its vectors in order, each with the signals that were made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from inference_svc.determinism import runtime_identity
from inference_svc.engine import predict_rows
from inference_svc.replay import report as kinds
from inference_svc.replay.absence import Absence, Place
from inference_svc.replay.calls import Calls, Job
from inference_svc.replay.comparing import call_of, differences
from inference_svc.replay.instants import show
from inference_svc.replay.recorded import Entry, Recorded
from inference_svc.replay.report import Case
from inference_svc.replay.sinks import Row
from inference_svc.replay.task import Task
from inference_svc.scoring import takes
from inference_svc.steps import check_partition
from inference_svc.vectors import Vector, read_vector
from quantmesh.streams.v1 import feature_pb2, signal_pb2
from runtime.errors import InvalidInputError, QuantmeshError, UnavailableError
from runtime.times import instant_us, to_us
from streams import Record


@dataclass(slots=True)
class _Item:
    """A vector of the range."""

    record: Record
    vector_hash: bytes
    vector: Vector | None
    """None when it is not what it claims to be; `fault` says why."""
    fault: InvalidInputError | None
    place: int
    candidate: float | None = None


class PartitionReplay:
    """Takes the pages of a partition's vectors, then its end."""

    def __init__(self, task: Task, place: Place, recorded: Recorded, *, several_rows: bool) -> None:
        """`several_rows`: some signals were made by calls of several rows, for which vectors outside of the range
        count too."""
        self._task = task
        self._report = task.report
        self._place = place
        self._recorded = recorded
        self._calls = Calls() if several_rows else None
        self._absence = Absence(task, place)
        self._first: dict[str, int] = {}

    async def page(self, records: Sequence[Record]) -> None:
        """Take the next vectors of the stream."""
        items = [item for record in records if (item := self._read(record)) is not None]
        self._score_candidates(items)
        taken = self._recorded.take([item.vector_hash for item in items])
        alone: list[Job] = []
        for item in items:
            signals = 0
            for strategy in self._task.strategies:
                entries = taken.get((strategy, item.vector_hash))
                entry = entries.pop(0) if entries else None
                if entry is None or entry.payload is None:
                    if item.vector is not None:
                        await self._absence.count(strategy, item.record, item.vector, held=entry is not None)
                    continue
                signals += 1
                self._first.setdefault(strategy, entry.number)
                await self._match(item, entry, alone)
            if item.candidate is not None and not signals and item.vector is not None:
                vector = item.vector
                self._task.sink.write(
                    Row(vector.symbol, vector.as_of_us, "", None, "", item.candidate, self._task.candidate_digest, "")
                )
        self._make_alone(alone)
        self._make_calls()

    async def end(self, *, vectors_trimmed: bool) -> None:
        """Say what is left when all vectors have been seen; `vectors_trimmed`: retention has taken some."""
        if self._calls is not None:
            for job in self._calls.unfinished():
                self._settle(job, kinds.CALL_TRIMMED, "vectors of the same call are not in the stream")
        for entry, again in self._recorded.left():
            if entry.payload is None:
                continue
            outcome, detail = kinds.NO_VECTOR, "no vector of the stream has its hash"
            if again:
                outcome, detail = kinds.REPEATED, "another signal was made from the same vector"
            elif vectors_trimmed and entry.number < self._first.get(entry.strategy, entry.number + 1):
                outcome, detail = kinds.VECTOR_TRIMMED, "its vector is not in the stream any more"
            self._record(entry, signal_pb2.Signal.FromString(entry.payload), outcome, detail)

    def _read(self, record: Record) -> _Item | None:
        """A vector of the range; None for any other, which may still be a row of a call."""
        try:
            message = feature_pb2.FeatureVector.FromString(record.payload)
        except DecodeError:
            self._report.refused["UNPARSABLE"] += 1
            return None
        as_of_us = instant_us(message.as_of)
        inside = as_of_us is not None and self._report.from_us <= as_of_us < self._report.to_us
        if as_of_us is not None:
            self._report.extend(as_of_us)
        if not inside and self._calls is None:
            return None
        try:
            vector = read_vector(record.payload)
            check_partition(self._task.catalog, vector, record.partition)
        except InvalidInputError as error:
            if not inside:
                return None
            self._report.vectors += 1
            self._report.refused[error.reason] += 1
            return _Item(record, message.vector_hash, None, error, 0)
        place = self._calls.see(vector) if self._calls is not None else 0
        if not inside:
            return None
        self._report.vectors += 1
        return _Item(record, vector.vector_hash, vector, None, place)

    def _score_candidates(self, items: Sequence[_Item]) -> None:
        """Score the vectors with the model that was asked for."""
        loaded, of_model = self._task.candidate, self._report.model
        if loaded is None or of_model is None:
            return
        usable: list[_Item] = []
        for item in items:
            if item.vector is None:
                continue
            self._task.sets_seen.add(item.vector.feature_set)
            if takes(loaded, item.vector):
                usable.append(item)
            elif item.vector.feature_set == loaded.manifest.feature_set:
                of_model.faults[item.vector.unusable or "FEATURE_COUNT_MISMATCH"] += 1
        if not usable:
            return
        made = predict_rows(loaded, _matrix([item.vector for item in usable if item.vector]), deterministic=True)
        for row, item in enumerate(usable):
            if row in made.faults:
                of_model.faults[made.faults[row].reason] += 1
            else:
                of_model.scored += 1
                item.candidate = float(made.values[row])

    async def _match(self, item: _Item, entry: Entry, alone: list[Job]) -> None:
        """Set a signal beside its vector: to be made again, or not, and why."""
        assert entry.payload is not None
        signal = signal_pb2.Signal.FromString(entry.payload)
        digest = signal.receipt.model_digest
        if item.vector is None:
            reason = item.fault.reason if item.fault else ""
            self._record(entry, signal, kinds.DIFFERS, f"its vector is refused: {reason}")
            return
        try:
            loaded = await self._task.models.get(digest)
        except UnavailableError:
            raise
        except QuantmeshError as error:
            self._record(entry, signal, kinds.UNKNOWN_MODEL, error.message, candidate=item.candidate)
            return
        self._absence.seen(entry.strategy, signal.receipt.generation, loaded)
        call = call_of(signal)
        wrong = ""
        if not takes(loaded, item.vector):
            wrong = f"its vector is none for this model: {item.vector.unusable or item.vector.feature_set}"
        elif call.row >= call.rows:
            wrong = "receipt.batch_row"
        elif self._task.history.contradicts(entry.strategy, signal.receipt.generation, digest):
            wrong = "receipt.generation: it had another champion"
        if wrong:
            self._record(entry, signal, kinds.DIFFERS, wrong, candidate=item.candidate)
            return
        job = Job(entry, signal, item.vector, loaded, item.candidate)
        if call.rows == 1 or self._calls is None:
            alone.append(job)
        else:
            self._calls.add(job, item.place, call)

    def _make_alone(self, jobs: Sequence[Job]) -> None:
        by_model: dict[str, list[Job]] = {}
        for job in jobs:
            by_model.setdefault(job.loaded.version, []).append(job)
        for of_model in by_model.values():
            made = predict_rows(of_model[0].loaded, _matrix([job.vector for job in of_model]), deterministic=True)
            for row, job in enumerate(of_model):
                self._compare(job, float(made.values[row]), made.faults.get(row))

    def _make_calls(self) -> None:
        if self._calls is None:
            return
        for matrix, jobs in self._calls.ready():
            if matrix is None:
                for _, job in jobs:
                    self._settle(job, kinds.CALL_TRIMMED, "vectors of the same call are not in the stream any more")
                continue
            made = predict_rows(jobs[0][1].loaded, matrix, deterministic=False)
            for row, job in jobs:
                self._compare(job, float(made.values[row]), made.faults.get(row))

    def _compare(self, job: Job, prediction: float, fault: QuantmeshError | None) -> None:
        if fault is not None:
            self._settle(job, kinds.DIFFERS, f"prediction: {fault.reason}")
            return
        found = differences(job.signal, job.entry.strategy, job.vector, job.loaded, prediction)
        detail = ", ".join(found)
        if "prediction" in found:
            detail += f": recorded {job.signal.prediction!r}, made {prediction!r}"
        self._settle(job, kinds.DIFFERS if found else kinds.REPRODUCED, detail, prediction)

    def _settle(self, job: Job, outcome: str, detail: str, prediction: float | None = None) -> None:
        self._record(job.entry, job.signal, outcome, detail, prediction, job.candidate)

    def _record(
        self,
        entry: Entry,
        signal: signal_pb2.Signal,
        outcome: str,
        detail: str,
        prediction: float | None = None,
        candidate: float | None = None,
    ) -> None:
        """Count what became of a recorded signal, name it if it is not reproduced, and write its row."""
        of_strategy = self._report.of(entry.strategy)
        of_strategy.signals[outcome] += 1
        as_of_us, made_by = to_us(signal.as_of), signal.receipt.runtime
        if made_by and made_by != runtime_identity():
            of_strategy.other_runtime += 1
            detail += f" (made by {made_by}, this is {runtime_identity()})"
        if outcome != kinds.REPRODUCED:
            at = self._place.partition
            self._report.name(
                Case(outcome, entry.strategy, at, entry.entry_id, signal.symbol, show(as_of_us), detail.strip())
            )
        digest = signal.receipt.model_digest
        computed, by = prediction, digest
        if self._task.candidate is not None:
            computed, by = candidate, self._task.candidate_digest
        self._task.sink.write(
            Row(signal.symbol, as_of_us, entry.strategy, signal.prediction, digest, computed, by, outcome)
        )


def _matrix(vectors: Sequence[Vector]) -> NDArray[np.float64]:
    return np.array([vector.values for vector in vectors], dtype=np.float64)
