"""The budget: over any time the share is kept, and an idle process saves up little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_svc.shadow.budget import Budget

SAVED_S = 0.01


class Machine:
    """A clock, and the processor time of one process."""

    def __init__(self) -> None:
        self.now = self.used = 0.0


@given(st.floats(0.01, 1.0), st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 1.0)), max_size=40))
def test_who_waits_as_told_uses_no_more_than_the_share(share: float, slices: list[tuple[float, float]]) -> None:
    machine = Machine()
    budget = Budget(share, lambda: machine.now, lambda: machine.used)
    longest = 0.0
    for work_s, idle_s in slices:
        machine.now += budget.wait_s()
        machine.now += work_s
        machine.used += work_s
        longest = max(longest, work_s)
        assert machine.used <= machine.now * share + SAVED_S + longest + 1e-9
        machine.now += idle_s


def test_an_idle_process_goes_on_at_once_and_a_busy_one_waits() -> None:
    machine = Machine()
    budget = Budget(0.1, lambda: machine.now, lambda: machine.used)
    machine.now = 1000.0
    assert budget.wait_s() == 0.0
    machine.now, machine.used = 1000.11, 0.11
    assert budget.wait_s() == pytest.approx((0.11 - 0.1 * 0.11 - SAVED_S) / 0.1)
    budget.begin()
    assert budget.wait_s() == 0.0
