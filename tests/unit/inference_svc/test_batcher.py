"""The greedy batcher: every row is scored once, its own answer comes back, and nothing is waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_svc import batcher as batcher_module
from inference_svc.admission import Admission, Priority, Terms
from inference_svc.batcher import AHEAD_S, INLINE_S, Batcher
from inference_svc.costs import Cost
from inference_svc.lane import Lane, Work
from inference_svc.registry import LoadedModel
from runtime.errors import DeadlineExceededError, FailedPreconditionError, ResourceExhaustedError
from tests.unit.inference_svc.loaded import loaded

POISON = -1.0


class Recorder:
    """Gives back the first value of a row, fails as a whole over a poisoned row, and keeps its calls."""

    columns = 1

    def __init__(self, on_call: Callable[[], None] = lambda: None) -> None:
        self.calls: list[list[float]] = []
        self._on_call = on_call

    most_squares = 0.0

    def unfit(self, rows: NDArray[np.float64], /) -> NDArray[np.bool_] | None:
        return None

    def predict(self, rows: NDArray[np.float64], /) -> NDArray[np.float64]:
        self._on_call()
        if (rows == POISON).any():
            raise ValueError("poison")
        self.calls.append(rows[:, 0].tolist())
        return rows[:, 0] * 2


def model(on_call: Callable[[], None] = lambda: None, cost: Cost | None = None) -> tuple[LoadedModel, Recorder]:
    recorder = Recorder(on_call)
    made = loaded("a" * 64, columns=1, model=recorder)
    return LoadedModel(made.version, made.manifest, recorder, 0, Lane(cost)), recorder


def batcher(most_rows: int = 4, target_s: float = 60.0, max_rows: int = 10_000, threads: int = 1) -> Batcher:
    return Batcher(Admission(target_s, max_rows), most_rows=most_rows, threads=threads)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


WORKS = st.lists(
    st.tuples(
        st.lists(st.one_of(st.integers(0, 1000).map(float), st.just(POISON)), min_size=1, max_size=9),
        st.sampled_from(Priority),
        st.sampled_from(["now", "after a turn", "cancel", "expired"]),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(works=WORKS, most_rows=st.integers(1, 6), long=st.booleans())
def test_each_row_gets_its_own_answer_whatever_else_waits(
    works: list[tuple[list[float], Priority, str, bool]], most_rows: int, long: bool
) -> None:
    asyncio.run(_program(works, most_rows, long))


async def _program(works: list[tuple[list[float], Priority, str, bool]], most_rows: int, long: bool) -> None:
    cost = Cost(2 * INLINE_S, 0.0) if long else None
    models = [model(cost=cost), model(cost=None)]
    service = batcher(most_rows)
    finished: list[Work] = []
    begun: list[tuple[Work, list[float], str]] = []
    for values, priority, how, first in works:
        loaded_model, _ = models[first]
        deadline = time.perf_counter() + (1e-9 if how == "expired" else 60.0)
        try:
            rows = np.array(values).reshape(-1, 1)
            work = service.submit(loaded_model, rows, Terms(priority, deadline, patient=True), finished.append)
        except DeadlineExceededError:
            assert how == "expired"
            continue
        begun.append((work, values, how))
        if how == "cancel":
            loaded_model.lane.cancel(work)
        if how == "after a turn":
            await asyncio.sleep(0)
    awaited = [work for work, _, how in begun if how != "cancel"]
    await until(lambda: all(work in finished for work in awaited))
    await until(lambda: service.waiting_rows == 0)
    for work, values, how in begun:
        assert finished.count(work) == (0 if work.cancelled else 1)
        if work.cancelled or how == "expired":
            continue
        if POISON in values:
            assert isinstance(work.error, FailedPreconditionError)
            assert int(work.error.metadata["row"]) == values.index(POISON)
        else:
            assert work.error is None
            assert work.values.tolist() == [2 * value for value in values]
            assert sum(count for count, _ in work.shapes) == len(values)
            assert all(count <= batch <= most_rows for count, batch in work.shapes)
    for _, recorder in models:
        assert all(len(call) <= most_rows for call in recorder.calls)
    service.close()


async def test_what_waits_is_run_at_once_and_together() -> None:
    loaded_model, recorder = model()
    service = batcher(most_rows=8)
    finished: list[Work] = []
    for value in range(5):
        service.submit(loaded_model, np.array([[float(value)]]), Terms(), finished.append)
    await asyncio.sleep(0)
    assert recorder.calls == [[0.0, 1.0, 2.0, 3.0, 4.0]]
    assert [work.shapes for work in finished] == [[(1, 5)]] * 5


async def test_the_higher_priority_goes_first_and_arrival_decides_among_equals() -> None:
    loaded_model, recorder = model()
    service = batcher(most_rows=2)
    finished: list[Work] = []
    for value, priority in enumerate([Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.NORMAL, Priority.HIGH]):
        service.submit(loaded_model, np.array([[float(value)]]), Terms(priority), finished.append)
    await until(lambda: len(finished) == 5)
    assert recorder.calls == [[2.0, 4.0], [1.0, 3.0], [0.0]]


async def test_a_long_call_leaves_the_event_loop_free_and_what_comes_meanwhile_is_the_next_call() -> None:
    go_on = threading.Event()
    slow, recorder = model(lambda: go_on.wait(10) and None, Cost(1.0, 0.0))
    quick, quick_recorder = model()
    service = batcher()
    finished: list[Work] = []
    service.submit(slow, np.array([[1.0]]), Terms(), finished.append)
    await asyncio.sleep(0)
    for value in (2.0, 3.0):
        service.submit(slow, np.array([[value]]), Terms(), finished.append)
    service.submit(quick, np.array([[9.0]]), Terms(), finished.append)
    await until(lambda: bool(quick_recorder.calls))
    assert recorder.calls == []
    go_on.set()
    await until(lambda: len(finished) == 4)
    assert recorder.calls == [[1.0], [2.0, 3.0]]
    service.close()


async def test_behind_a_call_that_runs_there_is_one_and_only_one_that_is_full() -> None:
    go_on = threading.Event()
    slow, recorder = model(lambda: go_on.wait(10) and None, Cost(AHEAD_S, 0.0))
    service = batcher(most_rows=2)
    finished: list[Work] = []
    service.submit(slow, np.array([[0.0]]), Terms(), finished.append)
    await asyncio.sleep(0)
    for value in range(1, 6):
        service.submit(slow, np.array([[float(value)]]), Terms(), finished.append)
        await asyncio.sleep(0)
        # The first two wait for one another, then go together behind the call that runs; nothing goes behind those.
        assert slow.lane.rows == {1: 1, 2: 0}.get(value, value - 2)
    assert service.waiting_rows == 3
    late = service.submit(slow, np.array([[9.0]]), Terms(Priority.HIGH), finished.append)
    go_on.set()
    await until(lambda: len(finished) == 7)
    assert recorder.calls == [[0.0], [1.0, 2.0], [9.0, 3.0], [4.0, 5.0]]
    assert late.shapes == [(1, 2)]
    service.close()


async def test_a_model_that_never_rests_leaves_the_thread_to_another() -> None:
    busy, busy_recorder = model(lambda: time.sleep(0.001), Cost(AHEAD_S, 0.0))
    other, other_recorder = model(cost=Cost(AHEAD_S, 0.0))
    service = batcher(most_rows=1, threads=1)
    finished: list[Work] = []

    def again(_work: Work) -> None:
        if not finished:
            service.submit(busy, np.array([[1.0]]), Terms(patient=True), again)

    for _ in range(5):  # there is always a full call behind the one that runs
        service.submit(busy, np.array([[1.0]]), Terms(patient=True), again)
    await until(lambda: len(busy_recorder.calls) > 5)
    service.submit(other, np.array([[2.0]]), Terms(patient=True), finished.append)
    await until(lambda: len(finished) == 1)
    assert other_recorder.calls == [[2.0]]
    await until(lambda: service.waiting_rows == 0)
    service.close()


async def test_what_is_given_up_or_late_behind_a_call_is_not_run() -> None:
    go_on = threading.Event()
    slow, recorder = model(lambda: go_on.wait(10) and None, Cost(AHEAD_S, 0.0))
    service = batcher(most_rows=3)
    finished: list[Work] = []
    service.submit(slow, np.array([[0.0]]), Terms(), finished.append)
    await asyncio.sleep(0)
    late = Terms(deadline=time.perf_counter() + 0.02, patient=True)
    works = [
        service.submit(slow, np.array([[value]]), terms, finished.append)
        for value, terms in ((1.0, late), (2.0, Terms()), (3.0, Terms()))
    ]
    await asyncio.sleep(0)
    assert slow.lane.rows == 0  # all three are behind the call that runs
    slow.lane.cancel(works[1])
    await until(lambda: time.perf_counter() > (late.deadline or 0.0))
    go_on.set()
    await until(lambda: len(finished) == 3)
    assert isinstance(works[0].error, DeadlineExceededError)
    assert recorder.calls == [[0.0], [3.0]]
    assert works[2].shapes == [(1, 1)]
    service.close()


async def test_the_rest_of_a_request_does_not_overtake_its_beginning() -> None:
    """Ten rows, of which eight are a long call and two a short one."""
    slow, recorder = model(lambda: time.sleep(0.02), Cost(0.0, INLINE_S / 3))
    service = batcher(most_rows=8)
    finished: list[Work] = []
    work = service.submit(slow, np.arange(10.0).reshape(-1, 1), Terms(), finished.append)
    await until(lambda: len(finished) == 1)
    assert work.shapes == [(8, 8), (2, 2)]
    assert recorder.calls == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [8.0, 9.0]]
    service.close()


async def test_a_call_that_would_be_in_the_way_for_long_is_not_placed_behind_another() -> None:
    go_on = threading.Event()
    slow, recorder = model(lambda: go_on.wait(10) and None, Cost(2 * AHEAD_S, 0.0))
    service = batcher(most_rows=1)
    finished: list[Work] = []
    for value in (1.0, 2.0):
        service.submit(slow, np.array([[value]]), Terms(), finished.append)
        await asyncio.sleep(0)
    service.submit(slow, np.array([[3.0]]), Terms(Priority.HIGH), finished.append)
    go_on.set()
    await until(lambda: len(finished) == 3)
    assert recorder.calls == [[1.0], [3.0], [2.0]]
    service.close()


@pytest.mark.parametrize("long", [False, True])
async def test_an_error_of_ours_ends_its_works_and_nothing_else(monkeypatch: pytest.MonkeyPatch, long: bool) -> None:
    made, recorder = model(cost=Cost(AHEAD_S, 0.0) if long else None)
    service = batcher(most_rows=1)
    finished: list[Work] = []
    with monkeypatch.context() as patched:
        patched.setattr(batcher_module, "run", _broken)
        broken = [service.submit(made, np.array([[value]]), Terms(), finished.append) for value in (1.0, 2.0)]
        await until(lambda: len(finished) == 2)
    assert all(isinstance(work.error, RuntimeError) for work in broken)
    service.submit(made, np.array([[3.0]]), Terms(), finished.append)
    await until(lambda: len(finished) == 3)
    assert recorder.calls == [[3.0]]
    service.close()


def _broken(*_args: object, **_options: object) -> None:
    raise RuntimeError("a bug")


async def test_a_model_all_of_whose_works_were_cancelled_has_one_place_all_the_same() -> None:
    slow, recorder = model(lambda: time.sleep(0.01), Cost(1.0, 0.0))
    service = batcher(threads=2)
    finished: list[Work] = []
    for value in range(6):
        given_up = service.submit(slow, np.array([[-5.0]]), Terms(patient=True), finished.append)
        slow.lane.cancel(given_up)
        service.submit(slow, np.array([[float(value)]]), Terms(patient=True), finished.append)
        await asyncio.sleep(0.002 * value)
    await until(lambda: len(finished) == 6)
    assert sorted(chain(*recorder.calls)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    service.close()


async def test_two_long_models_share_one_thread_and_both_are_scored() -> None:
    first, one = model(cost=Cost(1.0, 0.0))
    second, two = model(cost=Cost(1.0, 0.0))
    service = batcher(threads=1)
    finished: list[Work] = []
    for value in range(10):
        service.submit((first, second)[value % 2], np.array([[float(value)]]), Terms(patient=True), finished.append)
        await asyncio.sleep(0)
    await until(lambda: len(finished) == 10)
    assert sorted(chain(*one.calls, *two.calls)) == [float(n) for n in range(10)]
    service.close()


async def test_work_whose_deadline_passes_while_it_waits_is_never_run() -> None:
    loaded_model, recorder = model(lambda: time.sleep(0.02))
    service = batcher(most_rows=1)
    finished: list[Work] = []
    service.submit(loaded_model, np.array([[1.0]]), Terms(), finished.append)
    late = service.submit(
        loaded_model, np.array([[2.0]]), Terms(deadline=time.perf_counter() + 0.01, patient=True), finished.append
    )
    await until(lambda: len(finished) == 2)
    assert isinstance(late.error, DeadlineExceededError)
    assert recorder.calls == [[1.0]]


async def test_a_call_that_would_be_late_is_refused_at_once_and_told_when_to_come_back() -> None:
    go_on = threading.Event()
    slow, _ = model(lambda: go_on.wait(10) and None, Cost(100.0, 0.0))
    service = batcher(most_rows=1, target_s=250.0)
    finished: list[Work] = []
    for _ in range(2):  # one that runs and one behind it
        service.submit(slow, np.array([[1.0]]), Terms(), finished.append)
        await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError) as refused:  # a third would take 300 s
        service.submit(slow, np.array([[1.0]]), Terms(), finished.append)
    assert refused.value.reason == "OVERLOADED"
    assert refused.value.retry_after_s == pytest.approx(200.0, abs=20)
    service.submit(slow, np.array([[1.0]]), Terms(patient=True), finished.append)
    go_on.set()
    await until(lambda: len(finished) == 3)
    service.close()


async def test_a_pause_of_the_loop_is_held_against_no_call_that_comes_after_it() -> None:
    loaded_model, recorder = model()
    service = batcher(target_s=0.05)
    finished: list[Work] = []
    service.submit(loaded_model, np.array([[1.0]]), Terms(), finished.append)
    time.sleep(0.2)  # noqa: ASYNC251 - the loop is late by four times the objective
    await until(lambda: len(finished) == 1)
    for value in (2.0, 3.0, 4.0):
        service.submit(loaded_model, np.array([[value]]), Terms(), finished.append)
    await until(lambda: len(finished) == 4)
    assert list(chain(*recorder.calls)) == [1.0, 2.0, 3.0, 4.0]


async def test_a_call_of_high_priority_is_not_refused_for_what_it_overtakes() -> None:
    go_on = threading.Event()
    slow, _ = model(lambda: go_on.wait(10) and None, Cost(100.0, 0.0))
    service = batcher(most_rows=1, target_s=250.0)
    finished: list[Work] = []
    for _ in range(2):
        service.submit(slow, np.array([[1.0]]), Terms(Priority.LOW), finished.append)
        await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError):
        service.submit(slow, np.array([[1.0]]), Terms(Priority.LOW), finished.append)
    service.submit(slow, np.array([[1.0]]), Terms(Priority.HIGH), finished.append)
    go_on.set()
    await until(lambda: len(finished) == 3)
    service.close()


async def test_the_queue_is_bounded() -> None:
    loaded_model, _ = model()
    service = batcher(max_rows=5)
    finished: list[Work] = []
    service.submit(loaded_model, np.zeros((9, 1)), Terms(), finished.append)  # alone, it may be as big as it is
    with pytest.raises(ResourceExhaustedError) as refused:
        service.submit(loaded_model, np.zeros((1, 1)), Terms(), finished.append)
    assert refused.value.reason == "QUEUE_FULL"
    service.submit(loaded_model, np.zeros((1, 1)), Terms(patient=True), finished.append)
    await until(lambda: len(finished) == 2)


async def test_deterministic_scores_each_row_alone() -> None:
    loaded_model, recorder = model()
    service = Batcher(Admission(60.0, 100), most_rows=8, deterministic=True)
    finished: list[Work] = []
    for value in (1.0, 2.0, 3.0):
        service.submit(loaded_model, np.array([[value]]), Terms(), finished.append)
    await until(lambda: len(finished) == 3)
    assert recorder.calls == [[1.0], [2.0], [3.0]]
    assert [work.shapes for work in finished] == [[(1, 1)]] * 3
