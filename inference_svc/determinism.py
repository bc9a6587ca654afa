"""How a prediction comes to its bits, and how to score a row so that nothing but the row and the model decides them.

ONNX Runtime does not promise that a row's result is the same whatever it is batched with, and it is not (ADR 7, with
the figures): a linear model, an SVM or a k-NN changes its last bits between a call of one row and a call of several; a
softmax, also with the place of the row in the batch; a graph that quantises as it runs, or averages over the batch,
depends on what the other rows hold. In a call of its own a row gives the same bits in every session, at every address
and at any number of threads of ours (one). What is left is what runs the model: its version and the machine's
instruction set, which `runtime_identity` names.

The price is the overhead of a call, about five microseconds a row on the machine of ADR 7.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inference_svc.registry import Model


class Call(NamedTuple):
    """The call of a model that gave a prediction: how many rows it had, and which of them the prediction is of."""

    rows: int
    row: int


ALONE = Call(1, 0)
"""A row in a call of its own."""


def predict_alone(model: Model, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predictions of rows, shapes [N, columns] → [N], each in a call of its own. Raises what the model raises."""
    values = np.empty(len(rows))
    for row in range(len(rows)):
        values[row] = model.predict(rows[row : row + 1])[0]
    return values


@cache
def runtime_identity() -> str:
    """What runs models here: version of the runtime, architecture, and the highest instruction set that is there.

    Where two of these are equal, equal calls give equal bits.
    """
    found = np.show_config(mode="dicts")["SIMD Extensions"]
    levels = [*found.get("baseline", ()), *found.get("found", ())]
    return " ".join(["onnxruntime", ort.__version__, platform.machine(), *levels[-1:]])
