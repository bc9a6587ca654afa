"""What the pipeline remembers of one symbol, and its compact form in Redis, which online reads share.

Form, little-endian: version (u8), as_of (i64), next sequence (u64), number of clocks (u8), clocks, number of histories
(u16), histories. A clock: name (length u8, ASCII), event time (i64), served (u8). A history: name, complete_from (i64),
number of prints (u8), prints of 34 bytes each: event time (i64), available_at (i64), sequence (u64), print number
(u16), value (f64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from feature_svc.pit import History, Print

STATE = "pit"
"""Name of the state in `streams.keys.state`; its fields are symbols."""

_VERSION = 1
_NEVER_US = -(2**63)
_HEAD = struct.Struct("<BqQB")
_CLOCK = struct.Struct("<qB")
_HISTORY = struct.Struct("<qB")
_PRINT = struct.Struct("<qqQHd")


@dataclass(slots=True)
class Clock:
    """How far the vectors of one feature set have got for the symbol."""

    event_time_us: int = _NEVER_US
    """The newest event time of a clocked feature."""
    served: bool = True
    """Whether the vector of that event time was served."""
    waiting_for: set[str] | None = None
    """Clocked features without a print of that event time; None when it has to be found out from the histories."""


@dataclass(slots=True)
class SymbolState:
    """Prints by feature name, and clocks by feature set name."""

    as_of_us: int = _NEVER_US
    """The stream's own time: the latest `available_at` seen."""
    next_sequence: int = 0
    histories: dict[str, History] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The compact form."""
        parts = [_HEAD.pack(_VERSION, self.as_of_us, self.next_sequence, len(self.clocks))]
        for name, clock in self.clocks.items():
            parts += (_text(name), _CLOCK.pack(clock.event_time_us, clock.served))
        parts.append(len(self.histories).to_bytes(2, "little"))
        pack = _PRINT.pack
        for name, history in self.histories.items():
            parts += (_text(name), _HISTORY.pack(history.complete_from_us, len(history.prints)))
            parts += [pack(*held) for held in history.prints]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> SymbolState:
        """Read the compact form. Raises ValueError for another version."""
        version, as_of_us, next_sequence, clocks = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise ValueError(f"point-in-time state of version {version}; this program knows {_VERSION}")
        state = cls(as_of_us, next_sequence)
        at = _HEAD.size
        for _ in range(clocks):
            name, at = _read_text(data, at)
            event_time_us, served = _CLOCK.unpack_from(data, at)
            at += _CLOCK.size
            state.clocks[name] = Clock(event_time_us, bool(served))
        histories, at = int.from_bytes(data[at : at + 2], "little"), at + 2
        for _ in range(histories):
            name, at = _read_text(data, at)
            complete_from_us, count = _HISTORY.unpack_from(data, at)
            at += _HISTORY.size
            end = at + count * _PRINT.size
            prints = [Print._make(numbers) for numbers in _PRINT.iter_unpack(data[at:end])]
            state.histories[name] = History(prints, complete_from_us)
            at = end
        return state


def _text(name: str) -> bytes:
    encoded = name.encode("ascii")
    return bytes((len(encoded),)) + encoded


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("ascii"), end
