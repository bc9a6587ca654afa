"""Calls of several rows are put together again from the vectors around."""

from __future__ import annotations

from inference_svc.determinism import Call
from inference_svc.replay.calls import Calls, Job
from inference_svc.replay.recorded import Entry
from inference_svc.vectors import Vector
from quantmesh.streams.v1 import signal_pb2
from tests.unit.inference_svc.loaded import loaded

MODEL = loaded("d" * 64, columns=1)


def vector(value: float, feature_set: str = "set", unusable: str = "") -> Vector:
    return Vector("AAPL", feature_set, 1, 2, 2, [value], unusable, bytes(32))


def job(of: Vector, strategy: str = "momentum") -> Job:
    signal = signal_pb2.Signal(receipt=signal_pb2.Receipt(generation=1))
    return Job(Entry(1, strategy, "1-0", bytes(32), b""), signal, of, MODEL)


def ready(calls: Calls) -> list[tuple[list[float] | None, list[int]]]:
    return [(None if rows is None else rows[:, 0].tolist(), [row for row, _ in jobs]) for rows, jobs in calls.ready()]


def test_a_call_is_made_of_the_vectors_that_the_model_takes_in_order() -> None:
    calls = Calls()
    places = {}
    for number in range(6):
        calls.see(vector(100.0 + number, "another"))
        calls.see(vector(number, unusable="stale"))
        places[number] = calls.see(vector(number))
        if number == 3:
            calls.add(job(vector(3.0)), places[3], Call(4, 1))
            calls.add(job(vector(2.0)), places[2], Call(4, 0))
        assert ready(calls) == ([([2.0, 3.0, 4.0, 5.0], [1, 0])] if number == 5 else [])
    assert list(calls.unfinished()) == []


def test_two_strategies_have_calls_of_their_own() -> None:
    calls = Calls()
    for number in range(4):
        calls.see(vector(number))
    calls.add(job(vector(0.0)), 0, Call(2, 0))
    calls.add(job(vector(0.0), "carry"), 0, Call(4, 0))
    assert ready(calls) == [([0.0, 1.0], [0]), ([0.0, 1.0, 2.0, 3.0], [0])]


def test_a_call_whose_rows_are_gone_or_never_come_says_so() -> None:
    calls = Calls()
    place = calls.see(vector(5.0))
    calls.add(job(vector(5.0)), place, Call(3, 2))
    assert ready(calls) == [(None, [2])]
    late = job(vector(5.0))
    calls.add(late, place, Call(3, 0))
    assert ready(calls) == []
    assert list(calls.unfinished()) == [late]


def test_only_a_window_of_rows_is_kept() -> None:
    calls = Calls()
    for number in range(20_000):
        calls.see(vector(number))
    calls.add(job(vector(0.0)), 15_000, Call(4096, 4095))
    (call,) = ready(calls)
    assert call == (None, [4095]), "two pages behind at most is what there is"
    calls.add(job(vector(0.0)), 19_000, Call(4096, 4095))
    ((rows, _),) = ready(calls)
    assert rows == [float(n) for n in range(19_000 - 4095, 19_001)]
