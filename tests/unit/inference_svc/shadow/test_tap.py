"""The tap: bounded, never waiting, and each row is scored, dropped and counted, or in flight; never two of these."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inference_svc.determinism import ALONE
from inference_svc.registry import Serving
from inference_svc.scoring import Prediction, Scored
from inference_svc.shadow import frames
from inference_svc.shadow.accounts import REASONS, Account
from inference_svc.shadow.frames import Reader, Rows
from inference_svc.shadow.tap import Assignment, Tap
from inference_svc.vectors import Vector
from tests.unit.inference_svc.loaded import loaded
from tests.waiting import until

CHAMPION, CHALLENGER = "c" * 64, "d" * 64
MOST = 4096


@dataclass
class Part:
    request_id: str
    first: int
    count: int


class Socket:
    """Takes frames while there is room."""

    def __init__(self) -> None:
        self.up = True
        self.room = 1_000_000
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> bool:
        if len(self.frames) >= self.room:
            return False
        self.frames.append(frame)
        return True

    def rows(self) -> list[Rows]:
        return [frames.read_rows(body) for frame in self.frames for _, body in Reader().feed(frame)]


def make(socket: Socket, *, ready: bool = True) -> tuple[Tap, Assignment]:
    made = Tap(socket.send, lambda: socket.up)
    assignment = Assignment(7, "momentum", 3, loaded(CHAMPION), CHALLENGER, Account("momentum"), MOST, ready)
    made.by_champion = {CHAMPION: assignment}
    return made, assignment


def offer(to: Tap, count: int, version: str = CHAMPION, faults: tuple[int, ...] = ()) -> None:
    rows = np.arange(count * 2, dtype=np.float64).reshape(count, 2)
    to.batch(loaded(version), [Part("r", 0, count)], rows, rows.sum(axis=1), faults, 0.001)


async def test_what_is_taken_is_sent_later_with_its_ids_and_without_rows_that_have_no_prediction() -> None:
    socket = Socket()
    made, assignment = make(socket)
    rows = np.arange(10.0).reshape(5, 2)
    made.batch(loaded(CHAMPION), [Part("a", 3, 2), Part("b", 0, 3)], rows, rows.sum(axis=1), {1}, 0.002)
    assert socket.frames == [], "not before the answers are out"
    await until(lambda: bool(socket.frames))
    (sent,) = socket.rows()
    assert [(origin.request_id, origin.row) for origin in sent.origins] == [("a", 3), ("b", 0), ("b", 1), ("b", 2)]
    assert np.array_equal(sent.values, rows[[0, 2, 3, 4]])
    assert np.array_equal(sent.predictions, rows.sum(axis=1)[[0, 2, 3, 4]])
    assert (sent.slot, sent.batch_rows, sent.latency_us) == (7, 5, 2000.0)
    assert (assignment.account.offered, assignment.account.in_flight) == (4, 4)


async def test_vectors_are_sent_by_their_champion_and_generation() -> None:
    socket = Socket()
    made, assignment = make(socket)
    vector = Vector("AAPL", "set", 1, 2, 1, [1.0, 2.0], "", b"h" * 32)
    right = Serving("momentum", 3, loaded(CHAMPION))
    others = [Serving("momentum", 2, loaded(CHAMPION)), Serving("carry", 1, loaded("e" * 64))]

    @dataclass
    class Outcome:
        vector: Vector
        scored: Scored

    made.vectors([Outcome(vector, Scored([Prediction(each, 3.0, ALONE) for each in (right, *others)]))], 0.001)
    made.flush()
    (sent,) = socket.rows()
    assert sent.origins == [frames.Origin("", 0, "AAPL", b"h" * 32, 2)]
    assert (sent.values.tolist(), sent.predictions.tolist()) == ([[1.0, 2.0]], [3.0])
    assert assignment.account.offered == 1


async def test_rows_are_dropped_by_reason_and_never_waited_for() -> None:
    for up, ready, room, rows, reason in (
        (False, True, 10, 1, "down"),
        (True, False, 10, 1, "no_model"),
        (True, True, 0, 1, "full"),
        (True, True, 10, MOST + 1, "full"),
    ):
        socket = Socket()
        socket.up, socket.room = up, room
        made, assignment = make(socket, ready=ready)
        offer(made, rows)
        made.flush()
        assert assignment.account.dropped == {**dict.fromkeys(REASONS, 0), reason: rows}
        assert socket.frames == []
        assert assignment.account.in_flight == 0


async def test_other_models_are_not_taken() -> None:
    socket = Socket()
    made, assignment = make(socket)
    offer(made, 3, version="e" * 64)
    offer(made, 2, faults=(0, 1))
    made.flush()
    assert (socket.frames, assignment.account.offered) == ([], 0)


actions = st.one_of(
    st.tuples(st.just("offer"), st.integers(1, 2000)),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.just("up"), st.booleans()),
    st.tuples(st.just("ready"), st.booleans()),
    st.tuples(st.just("room"), st.integers(0, 3)),
    st.tuples(st.just("scored"), st.integers(0, 3000)),
    st.tuples(st.just("failed"), st.integers(0, 3000)),
    st.tuples(st.just("lost"), st.just(0)),
)


@given(st.lists(actions, max_size=40))
def test_each_row_is_scored_or_dropped_or_in_flight(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        socket = Socket()
        made, assignment = make(socket)
        account = assignment.account
        offered = 0
        for what, value in steps:
            if what == "offer":
                offer(made, value)
                offered += value
            elif what == "flush":
                made.flush()
            elif what == "up":
                socket.up = bool(value)
            elif what == "ready":
                assignment.ready = bool(value)
            elif what == "room":
                socket.room = len(socket.frames) + value
            elif what == "scored":
                account.score(value)
            elif what == "failed":
                account.drop("failed", value)
            else:
                made.lose()
                account.lose()
                assert account.in_flight == 0
            assert account.offered == offered
            assert 0 <= account.in_flight <= MOST
            assert account.offered == account.scored + sum(account.dropped.values()) + account.in_flight

    asyncio.run(run())
