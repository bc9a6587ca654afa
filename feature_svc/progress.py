"""How far the ticks of each symbol are complete, and since when that could be known. Pure.

A symbol is complete through an instant when it ticked at or after it, or when it is silent: the newest tick of its
lane (its partition) lies more than SILENCE_US ahead. Lanes are in order, and what is said of a symbol depends on its
own lane only; so it is a function of what each lane has given, however the lanes were interleaved, batched or read
again. That a symbol has NO tick at some instant is knowledge too: it is there when the tick that shows it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

SILENCE_US = 7 * 86_400_000_000
"""How far a lane must be ahead of a symbol for the symbol to count as silent, in event time."""

NEVER_US = -(2**63)


class _Step(NamedTuple):
    """A tick that completed something: through when, and when it could be known. `number` orders a lane's ticks."""

    through_us: int
    number: int
    available_at_us: int


class _Track:
    """The steps of one symbol, or those that its lane makes for its silent symbols, oldest first."""

    __slots__ = ("newest_us", "steps")

    def __init__(self) -> None:
        self.newest_us = NEVER_US
        self.steps: deque[_Step] = deque()

    def first_through(self, event_time_us: int) -> _Step | None:
        """The first step that reaches an instant. Forgets those before it: ask in ascending order."""
        while self.steps and self.steps[0].through_us < event_time_us:
            self.steps.popleft()
        return self.steps[0] if self.steps else None


class Progress:
    """Of a universe of symbols, each of which is named by its place."""

    def __init__(self, lanes: Sequence[int]) -> None:
        """`lanes` has the lane of each symbol."""
        self._symbols = [_Track() for _ in lanes]
        of_lane = {lane: _Track() for lane in lanes}
        self._lanes = [of_lane[lane] for lane in lanes]
        self._ticks = 0

    @property
    def newest_us(self) -> int:
        """The newest event time of any symbol."""
        return max(lane.newest_us for lane in self._lanes)

    def advance(self, place: int, event_time_us: int, available_at_us: int) -> None:
        """A symbol ticked, after everything that it is complete through."""
        self._ticks += 1
        symbol, lane = self._symbols[place], self._lanes[place]
        symbol.newest_us = event_time_us
        symbol.steps.append(_Step(event_time_us, self._ticks, available_at_us))
        if event_time_us > lane.newest_us:
            lane.newest_us = event_time_us
            lane.steps.append(_Step(event_time_us - SILENCE_US - 1, self._ticks, available_at_us))

    def through_us(self, place: int) -> int:
        """Up to when a symbol's ticks are complete."""
        return max(self._symbols[place].newest_us, self._lanes[place].newest_us - SILENCE_US - 1)

    def all_through_us(self) -> int:
        """Up to when every symbol's ticks are complete."""
        return min(map(self.through_us, range(len(self._symbols))))

    def known_at_us(self, event_time_us: int) -> int:
        """When it could be known of every symbol whether it ticked at an instant, and at what price.

        For instants that all are complete through, in ascending order.
        """
        return max(
            min(
                (step for track in pair if (step := track.first_through(event_time_us)) is not None),
                key=lambda step: step.number,
            ).available_at_us
            for pair in zip(self._symbols, self._lanes, strict=True)
        )

    def in_silent_lanes(self) -> list[int]:
        """Symbols whose whole lane is silent: nothing tells it from a lane that is yet to be read."""
        silent_us = self.newest_us - SILENCE_US
        return [place for place, lane in enumerate(self._lanes) if lane.newest_us < silent_us]
