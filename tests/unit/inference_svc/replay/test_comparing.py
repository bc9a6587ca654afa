"""What differs between a recorded signal and the one that is made again, field by field."""

from __future__ import annotations

import math

import pytest

from inference_svc.determinism import ALONE, Call
from inference_svc.registry import Serving
from inference_svc.replay.comparing import call_of, differences, same_bits
from inference_svc.scoring import Prediction
from inference_svc.signals import make_signal, signal_id
from inference_svc.vectors import Vector
from quantmesh.streams.v1 import signal_pb2
from tests.unit.inference_svc.loaded import loaded

VECTOR = Vector("AAPL", "set", 1_000_001, 3_000_003, 2_000_002, [0.0, 0.0], "", bytes(range(32)))
MODEL = loaded("d" * 64, threshold=0.5)
MADE = 0.75


def recorded(call: Call = ALONE) -> signal_pb2.Signal:
    return make_signal(VECTOR, Prediction(Serving("momentum", 4, MODEL), MADE, call), "ab" * 16)


def found(signal: signal_pb2.Signal, prediction: float = MADE) -> list[str]:
    return differences(signal, "momentum", VECTOR, MODEL, prediction)


def test_the_same_is_reproduced_wherever_and_whenever_it_was_made() -> None:
    for call in (ALONE, Call(32, 7)):
        signal = recorded(call)
        signal.receipt.trace_id = ""
        signal.receipt.runtime = "onnxruntime 0.1 pdp11"
        assert found(signal) == []
    old = recorded()
    for name in ("batch_rows", "batch_row", "runtime"):
        old.receipt.ClearField(name)
    assert found(old) == []
    assert (call_of(old), call_of(recorded(Call(32, 7)))) == (ALONE, Call(32, 7))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("signal_id", "0" * 64),
        ("strategy", "carry"),
        ("symbol", "MSFT"),
        ("direction", signal_pb2.DIRECTION_SHORT),
        ("prediction", math.nextafter(MADE, 1.0)),
        ("receipt.vector_hash", bytes(32)),
    ],
)
def test_any_change_is_found(path: str, value: object) -> None:
    signal = recorded()
    owner, _, name = path.rpartition(".")
    setattr(getattr(signal, owner) if owner else signal, name, value)
    assert found(signal) == [path]


@pytest.mark.parametrize("path", ["event_time", "as_of", "receipt.max_available_at"])
def test_a_nanosecond_is_found(path: str) -> None:
    signal = recorded()
    owner, _, name = path.rpartition(".")
    getattr(getattr(signal, owner) if owner else signal, name).nanos += 1
    assert found(signal) == [path]


def test_a_generation_or_a_digest_that_was_changed_is_found_by_the_identity() -> None:
    signal = recorded()
    signal.receipt.generation = 5
    assert found(signal) == ["signal_id"]
    signal.signal_id = signal_id("momentum", VECTOR.vector_hash, "d" * 64, 5)
    assert found(signal) == [], "for this there is the history of deployments"


def test_bits_are_compared_and_not_numbers() -> None:
    assert not same_bits(0.0, -0.0)
    assert same_bits(math.nan, math.nan)
    signal = recorded()
    signal.prediction, signal.direction = 0.0, signal_pb2.DIRECTION_FLAT
    assert found(signal, -0.0) == ["prediction"]
    assert found(signal, 0.0) == []


def test_a_field_of_another_version_is_not_passed_over() -> None:
    signal = signal_pb2.Signal.FromString(recorded().SerializeToString() + b"\xa2\x06\x01x")
    assert found(signal) == ["a field that this version does not know"]
