"""How much of a core the shadow process may use.

A priority decides who goes first on a processor. It does not give back what two processors share: caches, the memory's
bandwidth, and where a core is two to the system, half of its speed. Whoever computes little is felt little.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_SAVED_S = 0.01
"""Processor time that an idle process saves up, at most."""


class Budget:
    """Processor time of this process, against a share of the time that passes."""

    def __init__(
        self,
        share: float,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        """`share` is of one core, above 0."""
        self._share = share
        self._clock = clock
        self._used = used
        self.begin()

    def begin(self) -> None:
        """Count from here: what came before, a model's loading say, had to be."""
        self._left_s = _SAVED_S
        self._at, self._used_s = self._clock(), self._used()

    def wait_s(self) -> float:
        """Seconds until the process may go on; 0 when it may now."""
        at, used_s = self._clock(), self._used()
        self._left_s = min(self._left_s + (at - self._at) * self._share - (used_s - self._used_s), _SAVED_S)
        self._at, self._used_s = at, used_s
        return max(0.0, -self._left_s / self._share)
