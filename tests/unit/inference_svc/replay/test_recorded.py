"""Recorded signals are found by their vector, each once, whatever their order."""

from __future__ import annotations

from inference_svc.replay.recorded import Recorded


def _hash(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_signals_are_found_in_any_order_and_the_rest_is_left() -> None:
    with Recorded() as recorded:
        for start in range(0, 3000, 1000):
            recorded.add(("momentum", f"{n}-0", _hash(n), b"%d" % n) for n in range(start, start + 1000))
        recorded.add([("carry", "1-0", _hash(7), b"carry")])
        found = recorded.take([_hash(n) for n in reversed(range(10, 2000))])
        assert len(found) == 1990
        assert found["momentum", _hash(55)][0].payload == b"55"
        found = recorded.take([_hash(n) for n in range(20)])
        assert sorted(found) == sorted([*(("momentum", _hash(n)) for n in range(10)), ("carry", _hash(7))])
        assert [int(entry.payload or b"") for entry, _ in recorded.left()] == list(range(2000, 3000))


def test_a_vector_that_occurs_twice_takes_its_signals_one_by_one() -> None:
    with Recorded() as recorded:
        recorded.add(("momentum", f"{n}-0", _hash(1), b"%d" % n) for n in range(4))
        assert [e.payload for e in recorded.take([_hash(1)])["momentum", _hash(1)]] == [b"0"]
        assert [e.payload for e in recorded.take([_hash(1), _hash(1)])["momentum", _hash(1)]] == [b"1", b"2"]
        ((entry, again),) = recorded.left()
        assert (entry.payload, again) == (b"3", True)


def test_a_signal_whose_vector_never_came_is_no_repetition() -> None:
    with Recorded() as recorded:
        recorded.add([("momentum", "1-0", _hash(1), b"a"), ("carry", "1-0", _hash(1), b"b")])
        assert recorded.take([]) == {}
        assert [again for _, again in recorded.left()] == [False, False]
