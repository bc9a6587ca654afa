"""Whole graphs in a queue: priorities, deadlines, callers who left, and faults that name their row."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference_svc.admission import Admission, Priority, Terms
from inference_svc.oip.graph_runs import GraphRuns, outputs
from inference_svc.registry import LoadedModel
from modelstore.onnx_model import OnnxModel
from runtime.errors import DeadlineExceededError, FailedPreconditionError, ResourceExhaustedError
from tests.integration.inference_svc.models import ridge, table
from tests.unit.inference_svc.loaded import loaded
from tests.waiting import until


class Gated(OnnxModel):
    """Notes the first value of each call, and returns when the gate is open."""

    __slots__ = ("calls", "gate")

    @classmethod
    def of(cls, onnx: bytes) -> Gated:
        model = cls.load(onnx)
        model.calls, model.gate = [], threading.Event()
        return model

    def outputs(self, inputs: Any) -> Any:
        if hasattr(self, "gate"):
            self.calls.append(float(inputs["X"][0, 0]))
            assert self.gate.wait(30)
        return super().outputs(inputs)


@pytest.fixture
def gated() -> Gated:
    return Gated.of(ridge(1.0))


@pytest.fixture
def model(gated: Gated) -> LoadedModel:
    return loaded("a" * 64, columns=3, model=gated)


def graph_runs(queue_rows: int = 100, *, deterministic: bool = False) -> GraphRuns:
    return GraphRuns(Admission(60.0, queue_rows), threads=1, deterministic=deterministic)


def feed(first: float) -> dict[str, NDArray[Any]]:
    return {"X": np.array([[first, 0, 0]], np.float32)}


async def test_the_higher_priority_goes_first_then_the_order_of_arrival(model: LoadedModel, gated: Gated) -> None:
    runs = graph_runs()
    begun = [runs.submit(model, feed(0), 1, Terms())]
    for first, priority in enumerate((Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.NORMAL), 1):
        begun.append(runs.submit(model, feed(first), 1, Terms(priority)))
    gated.gate.set()
    await asyncio.gather(*(run.result() for run in begun))
    assert gated.calls == [0, 3, 2, 4, 1]
    assert (model.lane.calls.count, model.lane.calls.rows) == (5, 5)


async def test_what_nobody_waits_for_and_what_is_too_late_does_not_run(model: LoadedModel, gated: Gated) -> None:
    runs = graph_runs()
    first = runs.submit(model, feed(0), 1, Terms())
    left = runs.submit(model, feed(1), 1, Terms())
    deadline = time.perf_counter() + 0.001
    late = runs.submit(model, feed(2), 1, Terms(deadline=deadline, patient=True))
    last = runs.submit(model, feed(3), 1, Terms())
    waiting = asyncio.create_task(left.result())
    await until(lambda: time.perf_counter() > deadline)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gated.gate.set()
    await asyncio.gather(first.result(), last.result())
    assert gated.calls == [0, 3]
    with pytest.raises(DeadlineExceededError):
        await late.result()


async def test_a_full_queue_lets_nothing_in(model: LoadedModel, gated: Gated) -> None:
    runs = graph_runs(queue_rows=2)
    begun = [runs.submit(model, feed(at), 1, Terms()) for at in range(3)]
    with pytest.raises(ResourceExhaustedError) as caught:
        runs.submit(model, feed(3), 1, Terms())
    assert caught.value.reason == "QUEUE_FULL"
    gated.gate.set()
    await asyncio.gather(*(run.result() for run in begun))


def test_a_fault_names_its_row_and_deterministic_rows_are_run_alone() -> None:
    model = loaded("b" * 64, columns=3, model=OnnxModel.load(table(1.0, float("inf"))))
    good = np.array([[0, 0, 0], [0, 1, 1]], np.float32)
    assert outputs(model, {"rows": good}, 2, deterministic=True)["prediction"].tolist() == [1.0, 1.0]
    for value, reason in ((1, "NON_FINITE_PREDICTION"), (9, "MODEL_FAILED")):
        bad = np.array([[0, 0, 0], [value, 0, 0]], np.float32)
        with pytest.raises(FailedPreconditionError) as caught:
            outputs(model, {"rows": bad}, 2)
        assert (caught.value.reason, caught.value.metadata["row"]) == (reason, "1")
