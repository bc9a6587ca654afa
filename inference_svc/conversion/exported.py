"""What every framework's exporter hands on: a graph, and the way to ask the original model the same question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Reference: TypeAlias = Callable[[Rows], Sequence[NDArray[Any]]]
"""From rows [N, F] to the original model's outputs, [N] or [N, C] each, in the order of the graph's outputs."""

PREDICTION = "prediction"
LABEL = "label"
PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class Exported:
    """A model as its framework's exporter gave it, not yet checked.

    `input_names` and `output_names` are the names that the graph's inputs and outputs get, in its order; a row of
    features is laid over the inputs from left to right. `feature_names` are those that the model itself was trained
    with, empty when it knows none. `takes_float64` says that the original can also be asked in float64.
    """

    graph: onnx.ModelProto
    reference: Reference
    framework: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    takes_float64: bool = False
