"""A challenger in the shadow process: what it records, what it drops, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from inference_svc.registry import LoadedModel
from inference_svc.shadow import challenger as module
from inference_svc.shadow import frames
from inference_svc.shadow.budget import Budget
from inference_svc.shadow.challenger import Challenger
from inference_svc.shadow.counts import Counts
from inference_svc.shadow.frames import Ask, Kind, Origin, Reader, Rows
from inference_svc.shadow.pairs import Slot
from quantmesh.streams.v1.shadow_pair_pb2 import ShadowPair
from runtime.errors import UnavailableError
from runtime.process import ended
from tests.unit.inference_svc.loaded import Table, loaded
from tests.waiting import until

VERSION = "d" * 64
SLOT = Slot(1, "momentum", 2, "c" * 64, 0.0, VERSION)


class Loader:
    """Gives a model of two columns that knows the entries 0 and 1; the first time, if told so, it fails."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    async def load(self, version: str) -> LoadedModel:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("the disk is away", reason="ARTIFACTS_UNAVAILABLE")
        return loaded(version, model=Table((10.0, float("nan"), 30.0)))


class Recorder:
    def __init__(self) -> None:
        self.pairs: list[ShadowPair] = []

    def record(self, strategy: str, request_id: str, pair: bytes) -> None:
        self.pairs.append(ShadowPair.FromString(pair))


class Made:
    """A challenger that runs, and what it has told."""

    def __init__(self, loader: Loader) -> None:
        self.recorder, self.counts = Recorder(), Counts()
        self.told: list[tuple[Kind, bytes]] = []
        anything: Any = Challenger
        self.challenger: Challenger = anything(
            VERSION,
            loader,
            self.recorder,
            self.counts,
            Budget(1.0),
            lambda frame: self.told.extend(Reader().feed(frame)),
        )
        self.running = asyncio.create_task(self.challenger.run())

    def notes(self) -> list[dict[str, Any]]:
        return [frames.read_note(body) for kind, body in self.told if kind is Kind.NOTE]

    async def ready(self) -> None:
        await until(lambda: any("loaded" in note for note in self.notes()))


@asynccontextmanager
async def running(loader: Loader) -> AsyncIterator[Made]:
    made = Made(loader)
    yield made
    made.challenger.close()
    await ended(made.running)


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    async with running(Loader()) as made:
        yield made


def rows(*first: float) -> Rows:
    values = np.array([[value, 5.0] for value in first])
    origins = [Origin("r", row) for row in range(len(first))]
    return Rows(1, 7, 3.0, len(first), values, np.arange(len(first), dtype=np.float64), origins)


async def test_rows_before_it_is_loaded_are_dropped() -> None:
    async with running(Loader(failures=100)) as made:
        made.challenger.score(SLOT, rows(0, 2))
        made.challenger.ask(Ask(5, VERSION, np.zeros((1, 2))))
        assert made.counts.take()["momentum"]["dropped"] == {"no_model": 2}
        assert made.notes()[-1]["error"]["reason"] == "CHALLENGER_NOT_READY"


async def test_each_row_is_recorded_or_dropped_as_failed(made: Made) -> None:
    await made.ready()
    made.challenger.score(SLOT, rows(0, 1, 2, 9))
    await until(made.challenger.idle.is_set)
    assert [(pair.row, pair.challenger.prediction) for pair in made.recorder.pairs] == [(0, 10.0), (2, 30.0)]
    counted = made.counts.take()["momentum"]
    assert (counted["scored"], counted["dropped"], sum(counted["calls"])) == (2, {"failed": 2}, 2)


async def test_no_more_callers_wait_than_may(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    await made.ready()
    monkeypatch.setattr(module, "MOST_ASKS", 1)
    for number in range(2):
        made.challenger.ask(Ask(number, VERSION, np.zeros((1, 2))))
    await until(made.challenger.idle.is_set)
    refused = [note for note in made.notes() if "refused" in note]
    assert [(note["refused"], note["error"]["reason"]) for note in refused] == [(1, "QUEUE_FULL")]
    assert [kind for kind, _ in made.told].count(Kind.ANSWER) == 1


async def test_what_waits_when_it_is_closed_is_dropped_and_who_asks_is_told(made: Made) -> None:
    await made.ready()
    made.challenger.score(SLOT, rows(0, 2))
    made.challenger.ask(Ask(5, VERSION, np.zeros((1, 2))))
    made.challenger.close()
    assert made.counts.take()["momentum"]["dropped"] == {"no_model": 2}
    assert made.notes()[-1]["refused"] == 5
    assert made.recorder.pairs == []


async def test_a_load_that_fails_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_RETRY_S", 0.01)
    async with running(Loader(failures=1)) as made:
        await made.ready()
        failed, done = made.notes()
        assert failed == {"failed": VERSION, "error": "ARTIFACTS_UNAVAILABLE: the disk is away"}
        assert (done["loaded"], done["manifest"]["strategy"]) == (VERSION, "momentum")
