"""What goes into and comes out of a transform."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Record:
    """One entry, as read."""

    stream: str
    partition: int
    entry_id: str
    """Redis entry id, `{milliseconds}-{number}`; grows within the partition."""
    payload: bytes
    traceparent: str = ""

    def age_s(self) -> float:
        """Seconds since the server appended it, by this machine's clock."""
        return max(0.0, time.time() - int(self.entry_id.partition("-")[0]) / 1000)


@dataclass(frozen=True, slots=True)
class OutRecord:
    """One entry to write."""

    stream: str
    key: str
    """Value of the stream's key field; picks the partition."""
    payload: bytes
    traceparent: str = ""
    event_id: str = ""
    """Identity given by the publisher: accepted once within the deduplication window. Empty: no such check."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A record that cannot be processed, for the dead letters."""

    record: Record
    reason: str
    """Stable, UPPER_SNAKE_CASE."""
    error: str
    """For a person."""
    attempts: int = 1
    """How often it was tried."""


@dataclass(slots=True)
class Outputs:
    """Result of a transform, committed as one with the offset."""

    records: list[OutRecord] = field(default_factory=list)
    """To write. Their keys must hash to the input's partition, as they do when both streams have the same key."""
    state: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """State to set: name → field → value."""
    dead: list[Poison] = field(default_factory=list)
    fences: dict[str, int] = field(default_factory=dict)
    """Strategy → generation the outputs were made under; the commit is refused when the fence is higher."""
