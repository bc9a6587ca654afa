"""A signal's direction, identity and receipt."""

from __future__ import annotations

from hashlib import sha256

import pytest

from inference_svc.determinism import Call, runtime_identity
from inference_svc.scoring import Prediction
from inference_svc.signals import direction, make_signal, signal_id
from inference_svc.vectors import Vector
from quantmesh.streams.v1 import signal_pb2
from runtime.times import to_us
from tests.unit.inference_svc.loaded import loaded, serving

LONG, SHORT, FLAT = signal_pb2.DIRECTION_LONG, signal_pb2.DIRECTION_SHORT, signal_pb2.DIRECTION_FLAT


@pytest.mark.parametrize(
    ("prediction", "threshold", "expected"),
    [
        (0.011, 0.01, LONG),
        (0.01, 0.01, FLAT),
        (-0.01, 0.01, FLAT),
        (-0.011, 0.01, SHORT),
        (1e-300, 0.0, LONG),
        (-1e-300, 0.0, SHORT),
        (0.0, 0.0, FLAT),
        (-0.0, 0.0, FLAT),
    ],
)
def test_the_threshold_itself_is_flat(prediction: float, threshold: float, expected: int) -> None:
    assert direction(prediction, threshold) == expected


def test_an_id_is_of_strategy_vector_model_and_generation() -> None:
    known = signal_id("momentum", bytes(32), "a" * 64, 7)
    assert known == sha256(b"momentum|" + b"00" * 32 + b"|" + b"a" * 64 + b"|7").hexdigest()
    others = {
        signal_id("carry", bytes(32), "a" * 64, 7),
        signal_id("momentum", bytes([1] * 32), "a" * 64, 7),
        signal_id("momentum", bytes(32), "b" * 64, 7),
        signal_id("momentum", bytes(32), "a" * 64, 8),
    }
    assert len(others | {known}) == 5


def test_a_signal_carries_the_evidence() -> None:
    vector = Vector("AAPL", "set", 1_000_001, 3_000_003, 2_000_002, [0.0, 0.0], "", bytes(range(32)))
    of = serving("momentum", 4, champion=loaded("d" * 64, threshold=0.5))
    signal = make_signal(vector, Prediction(of, -0.75, Call(32, 7)), "ab" * 16)
    assert (signal.strategy, signal.symbol, signal.prediction, signal.direction) == ("momentum", "AAPL", -0.75, SHORT)
    assert (to_us(signal.event_time), to_us(signal.as_of)) == (1_000_001, 3_000_003)
    receipt = signal.receipt
    assert (receipt.vector_hash, to_us(receipt.max_available_at)) == (bytes(range(32)), 2_000_002)
    assert (receipt.model_digest, receipt.generation, receipt.trace_id) == ("d" * 64, 4, "ab" * 16)
    assert (receipt.batch_rows, receipt.batch_row, receipt.runtime) == (32, 7, runtime_identity())
    assert signal.signal_id == signal_id("momentum", bytes(range(32)), "d" * 64, 4)
