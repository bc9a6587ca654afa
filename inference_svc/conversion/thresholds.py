"""Thresholds of trees as float32.

A split `x <= t` of a float32 x is the same split with the largest float32 up to t. With the nearest one it is not, when
that lies above t and x is just there: which is where the rows of the training are, whenever they decided on t.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def float32_below(thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest float32 that is not above each threshold, as float64. NaN stays NaN, and infinities as they are."""
    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
        below = np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)
    exact: NDArray[np.float64] = below.astype(np.float64)
    return exact
