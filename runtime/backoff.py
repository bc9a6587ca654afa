"""How long to wait before a process that ended is started again."""

from __future__ import annotations


class Backoff:
    """A wait that doubles up to a limit, and is the first one again once the process was up for long enough."""

    def __init__(self, first_s: float = 0.1, longest_s: float = 5.0, steady_after_s: float = 10.0) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s
        self._steady_after_s = steady_after_s

    def wait_s(self, up_s: float) -> float:
        """The wait after a process that was up for `up_s`."""
        if up_s >= self._steady_after_s:
            self._next_s = self._first_s
        wait_s = self._next_s
        self._next_s = min(2 * wait_s, self._longest_s)
        return wait_s
