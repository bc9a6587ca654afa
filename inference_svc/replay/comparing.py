"""A recorded signal against the one that its receipt makes again. Pure."""

from __future__ import annotations

import struct

from inference_svc.determinism import ALONE, Call
from inference_svc.registry import LoadedModel, Serving
from inference_svc.scoring import Prediction
from inference_svc.signals import make_signal
from inference_svc.vectors import Vector
from quantmesh.streams.v1 import signal_pb2

_FIELDS = ("signal_id", "strategy", "symbol", "event_time", "as_of", "direction")


def call_of(signal: signal_pb2.Signal) -> Call:
    """The call of the model that a signal says it came from; before that was recorded: alone, for want of better."""
    receipt = signal.receipt
    return Call(receipt.batch_rows, receipt.batch_row) if receipt.batch_rows else ALONE


def same_bits(one: float, other: float) -> bool:
    """Whether two numbers are the same to the last bit: 0.0 is not -0.0."""
    return struct.pack("<d", one) == struct.pack("<d", other)


def differences(
    signal: signal_pb2.Signal, strategy: str, vector: Vector, loaded: LoadedModel, prediction: float
) -> list[str]:
    """Fields of a signal that are not what its vector, its model and its generation give; empty when it is reproduced.

    What is a fact of the moment, and not of these, is taken from the signal: trace id, call, runtime.
    """
    receipt = signal.receipt
    serving = Serving(strategy, receipt.generation, loaded)
    made = make_signal(vector, Prediction(serving, prediction, call_of(signal)), receipt.trace_id)
    made.receipt.batch_rows, made.receipt.batch_row = receipt.batch_rows, receipt.batch_row
    made.receipt.runtime = receipt.runtime
    found = [name for name in _FIELDS if getattr(signal, name) != getattr(made, name)]
    if not same_bits(signal.prediction, made.prediction):
        found.append("prediction")
    found += [
        f"receipt.{name}"
        for name in ("vector_hash", "max_available_at")
        if getattr(receipt, name) != getattr(made.receipt, name)
    ]
    if not found and signal != made:
        found.append("a field that this version does not know")
    return found
