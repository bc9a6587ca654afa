"""What a prediction becomes: a signal with its receipt."""

from __future__ import annotations

from hashlib import sha256

from inference_svc.determinism import runtime_identity
from inference_svc.scoring import Prediction
from inference_svc.vectors import Vector
from quantmesh.streams.v1 import signal_pb2
from runtime.times import set_us


def direction(prediction: float, threshold: float) -> signal_pb2.Direction.ValueType:
    """LONG above the threshold, SHORT below minus it, FLAT between; both ends belong to FLAT."""
    if prediction > threshold:
        return signal_pb2.DIRECTION_LONG
    if prediction < -threshold:
        return signal_pb2.DIRECTION_SHORT
    return signal_pb2.DIRECTION_FLAT


def signal_id(strategy: str, vector_hash: bytes, model_digest: str, generation: int) -> str:
    """SHA-256 of `{strategy}|{vector hash, hexadecimal}|{model digest}|{generation}`, in hexadecimal."""
    return sha256(f"{strategy}|{vector_hash.hex()}|{model_digest}|{generation}".encode()).hexdigest()


def make_signal(vector: Vector, prediction: Prediction, trace_id: str) -> signal_pb2.Signal:
    """The signal of one strategy for one vector."""
    serving, call = prediction.serving, prediction.call
    version = serving.champion.version
    signal = signal_pb2.Signal(
        signal_id=signal_id(serving.strategy, vector.vector_hash, version, serving.generation),
        strategy=serving.strategy,
        symbol=vector.symbol,
        prediction=prediction.value,
        direction=direction(prediction.value, serving.champion.manifest.signal_threshold),
        receipt=signal_pb2.Receipt(
            vector_hash=vector.vector_hash,
            model_digest=version,
            generation=serving.generation,
            trace_id=trace_id,
            batch_rows=call.rows,
            batch_row=call.row,
            runtime=runtime_identity(),
        ),
    )
    set_us(signal.event_time, vector.event_time_us)
    set_us(signal.as_of, vector.as_of_us)
    set_us(signal.receipt.max_available_at, vector.max_available_at_us)
    return signal
