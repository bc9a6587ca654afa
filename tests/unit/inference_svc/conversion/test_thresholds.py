"""A split at the float32 below a threshold is, for float32 rows, the split at the threshold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_svc.conversion.thresholds import float32_below

numbers = st.floats(allow_nan=False, allow_infinity=True)


@settings(deadline=None)
@given(numbers, st.floats(allow_nan=False, width=32))
def test_no_float32_row_takes_another_branch(threshold: float, value: float) -> None:
    below = float(float32_below(np.array([threshold]))[0])
    assert float(np.float32(below)) == below or np.isinf(below)
    assert (value <= threshold) == (value <= below)


@settings(deadline=None)
@given(numbers)
def test_nor_do_the_neighbours_of_the_threshold(threshold: float) -> None:
    below = float(float32_below(np.array([threshold]))[0])
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
        neighbours = (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)))
    for value in neighbours:
        assert (float(value) <= threshold) == (float(value) <= below)


def test_the_nearest_float32_would_not_do() -> None:
    """The control: rounding to nearest sends a row that lies on the rounded threshold the other way."""
    threshold = 0.1  # its nearest float32 is above it
    value = float(np.float32(threshold))
    assert (value <= threshold) != (value <= float(np.float32(threshold)))
