"""A replay: every partition's recorded signals, then its recorded vectors, and what the one makes of the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from inference_svc.held import stream_of
from inference_svc.replay import report as kinds
from inference_svc.replay.absence import Place
from inference_svc.replay.history import History
from inference_svc.replay.instants import show
from inference_svc.replay.models import Models
from inference_svc.replay.partition import PartitionReplay
from inference_svc.replay.recorded import Recorded
from inference_svc.replay.report import Case, OfModel, Report
from inference_svc.replay.sinks import Sink
from inference_svc.replay.task import Task
from inference_svc.scorer import STREAM
from modelstore.artifacts import ArtifactStore
from modelstore.layouts import FeatureLayouts
from quantmesh.streams.v1 import feature_pb2, signal_pb2
from runtime.errors import FailedPreconditionError, NotFoundError
from runtime.redis_client import Client
from runtime.times import instant_us
from streams import Catalog, Record
from streams.operations.inspect import existing_streams
from streams.operations.snapshot import snapshot
from streams.operations.tail import PAGE, entries

_PREFIX = "signals."


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be replayed: vectors and signals with `from_us <= as_of < to_us`."""

    from_us: int
    to_us: int
    strategy: str | None = None
    """Only its signals; None: those of every strategy."""
    model: str | None = None
    """Digest of a model to score the same vectors with."""


async def replay(redis: Client, catalog: Catalog, artifacts: ArtifactStore, request: Request, sink: Sink) -> Report:
    """Replay what the streams hold. Writes nothing, and may run beside a mesh that works.

    Raises NotFoundError (UNKNOWN_STRATEGY, UNKNOWN_VERSION), FailedPreconditionError (FEATURE_SET_MISMATCH,
    FEATURE_LAYOUT_MISMATCH, and what loading the model raises), UnavailableError (ARTIFACTS_UNAVAILABLE).
    """
    history = await History.read(redis)
    strategies = await _strategies(redis, catalog, history, request.strategy)
    report = Report(request.from_us, request.to_us, {})
    task = Task(catalog, strategies, history, Models(artifacts), report, sink)
    if request.model is not None:
        task.candidate = await task.models.get(request.model)
        manifest = task.candidate.manifest
        await FeatureLayouts(redis).require(manifest.feature_set, manifest.feature_names)
        report.model = OfModel(request.model)
    for strategy in strategies:
        report.of(strategy)
        sets = [await task.models.feature_set(digest) for digest in history.after(strategy, 0)]
        task.sets[strategy] = set(filter(None, sets))
    for partition in range(catalog.partitions):
        with Recorded() as recorded:
            await _partition(redis, task, partition, recorded)
    _require_inputs(task)
    return report


async def _strategies(redis: Client, catalog: Catalog, history: History, wanted: str | None) -> list[str]:
    streams = [stream.name for stream in await existing_streams(redis, catalog)]
    known = history.strategies | {name.removeprefix(_PREFIX) for name in streams if name.startswith(_PREFIX)}
    if wanted is None:
        return sorted(known)
    if wanted not in known:
        raise NotFoundError(
            f"strategy {wanted!r} has neither signals nor deployments; there are: {', '.join(sorted(known)) or 'none'}",
            reason="UNKNOWN_STRATEGY",
            field="--strategy",
        )
    return [wanted]


async def _partition(redis: Client, task: Task, partition: int, recorded: Recorded) -> None:
    # The mesh may be at work. How far the scorers are comes first, then the signals, then the vectors to their end: so
    # what was scored before has its signals here, and each signal that is here has its vector.
    stream = task.catalog.stream(STREAM)
    committed = (await snapshot(redis, STREAM, [stream.group], partition)).groups[0].offset
    oldest_signal: dict[str, str] = {}
    several_rows = False
    for strategy in task.strategies:
        held = task.catalog.stream(stream_of(strategy))
        released = (await snapshot(redis, held.name, [held.group], partition)).groups[0].offset
        signals = await snapshot(redis, f"{_PREFIX}{strategy}", [], partition)
        if signals.appended > signals.records:
            oldest_signal[strategy] = signals.first_id or signals.end
        several_rows |= await _take_signals(redis, task, strategy, partition, recorded)
        async for page in _pages(entries(redis, held, partition, after=released)):
            recorded.add((strategy, record.entry_id, vector_hash, None) for record, vector_hash in _hashes(page))
    of_partition = PartitionReplay(
        task, Place(partition, committed, oldest_signal), recorded, several_rows=several_rows
    )
    end = (await snapshot(redis, STREAM, [], partition)).last_id
    if end:
        async for page in _pages(entries(redis, stream, partition, until=end)):
            await of_partition.page(page)
    after = await snapshot(redis, STREAM, [], partition)
    await of_partition.end(vectors_trimmed=after.appended > after.records)


def _hashes(page: list[Record]) -> Iterator[tuple[Record, bytes]]:
    for record in page:
        with suppress(DecodeError):  # the scorer wrote none such
            yield record, feature_pb2.FeatureVector.FromString(record.payload).vector_hash


async def _take_signals(redis: Client, task: Task, strategy: str, partition: int, recorded: Recorded) -> bool:
    """Take in the signals of the range; returns whether any was made by a call of several rows."""
    several_rows = False
    stream = task.catalog.stream(f"{_PREFIX}{strategy}")
    async for page in _pages(entries(redis, stream, partition)):
        found = []
        for record in page:
            try:
                signal = signal_pb2.Signal.FromString(record.payload)
            except DecodeError:
                task.report.of(strategy).signals[kinds.UNREADABLE] += 1
                task.report.name(Case(kinds.UNREADABLE, strategy, partition, record.entry_id, "", "", "is no Signal"))
                continue
            as_of_us = instant_us(signal.as_of)
            if as_of_us is None or not task.report.from_us <= as_of_us < task.report.to_us:
                continue
            several_rows |= signal.receipt.batch_rows > 1
            found.append((strategy, record.entry_id, signal.receipt.vector_hash, record.payload))
        recorded.add(found)
    return several_rows


async def _pages(records: AsyncIterator[Record]) -> AsyncIterator[list[Record]]:
    page: list[Record] = []
    async for record in records:
        page.append(record)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def _require_inputs(task: Task) -> None:
    """Raise FailedPreconditionError (FEATURE_SET_MISMATCH) when no vector of the range is one for the model."""
    if task.candidate is None or not task.sets_seen:
        return
    wanted = task.candidate.manifest.feature_set
    if wanted not in task.sets_seen:
        raise FailedPreconditionError(
            f"the model takes vectors of feature set {wanted!r}; those of the range are of "
            f"{', '.join(sorted(task.sets_seen))}",
            reason="FEATURE_SET_MISMATCH",
            field="--model",
            metadata={"feature_set": wanted},
        )


def available(report: Report) -> str:
    """In words, what the stream of vectors holds."""
    if report.oldest_us is None or report.newest_us is None:
        return f"{STREAM} holds no vectors"
    return f"{STREAM} holds vectors as of {show(report.oldest_us)} to {show(report.newest_us)}"
