"""When a schedule that does not move never will. Pure."""

from __future__ import annotations

_LATE_S = 0.1
"""The longest time that one look stands for. Where there is a core to run on they come every 0.04 s."""


class Stall:
    """Tells when nothing moves any more.

    Counted in looks, not by the clock: where the machine is so busy that a look comes late, those whom it looks at come
    late too, and a time in which nobody ran proves nothing.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._looked: float | None = None
        self._seconds = 0.0
        self._position: object = None

    def over(self) -> None:
        """Begin to count anew."""
        self._looked, self._seconds = None, 0.0

    def lasts(self, position: object, now: float) -> bool:
        """Whether that is where it has been for too long."""
        if position != self._position:
            self._position = position
            self.over()
        if self._looked is not None:
            self._seconds += min(now - self._looked, _LATE_S)
        self._looked = now
        return self._seconds > self._limit_s
