"""What a replica and its shadow process say to each other: frames on a stream of bytes. Pure.

A frame is its length and its kind, then the body: JSON for what is rare, little-endian numbers for rows.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_HEAD = struct.Struct("<IB")
_ROWS = struct.Struct("<IqdIII")
_ORIGIN = struct.Struct("<HIHBq")
_ASK = struct.Struct("<I64sII")
_ANSWER = struct.Struct("<I")
_FLOAT64 = np.dtype("<f8")


class Kind(enum.IntEnum):
    """What a frame holds."""

    NOTE = 0
    """JSON, either way."""
    ROWS = 1
    """Rows that a champion has scored, to the shadow process."""
    ASK = 2
    """Rows to score for a caller, to the shadow process."""
    ANSWER = 3
    """The predictions of an ask; when it failed, a note says so."""


class Origin(NamedTuple):
    """Where a row comes from: a request, or a vector of the stream (which has a symbol)."""

    request_id: str = ""
    row: int = 0
    symbol: str = ""
    vector_hash: bytes = b""
    as_of_us: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one call of a champion. `slot` names the assignment that they are scored under."""

    slot: int
    scored_at_us: int
    latency_us: float
    batch_rows: int
    values: Matrix
    """Shape [N, columns]."""
    predictions: Matrix
    """The champion's, shape [N]."""
    origins: Sequence[Origin]
    """N of them."""


class Ask(NamedTuple):
    """Rows to score by a version, shape [N, columns]. The answer has its number."""

    number: int
    version: str
    values: Matrix


def note(document: dict[str, Any]) -> bytes:
    """A frame of JSON values."""
    return _framed(Kind.NOTE, json.dumps(document).encode())


def rows_frame(rows: Rows) -> bytes:
    """A frame of rows."""
    count, columns = rows.values.shape
    parts = [
        _ROWS.pack(rows.slot, rows.scored_at_us, rows.latency_us, rows.batch_rows, count, columns),
        rows.values.astype(_FLOAT64, copy=False).tobytes(),
        rows.predictions.astype(_FLOAT64, copy=False).tobytes(),
    ]
    for request_id, row, symbol, vector_hash, as_of_us in rows.origins:
        identity, name = request_id.encode(), symbol.encode()
        parts += (_ORIGIN.pack(len(identity), row, len(name), len(vector_hash), as_of_us), identity, name, vector_hash)
    return _framed(Kind.ROWS, b"".join(parts))


def ask_frame(ask: Ask) -> bytes:
    """A frame of rows to score."""
    head = _ASK.pack(ask.number, ask.version.encode(), *ask.values.shape)
    return _framed(Kind.ASK, head + ask.values.astype(_FLOAT64, copy=False).tobytes())


def answer_frame(number: int, predictions: Matrix) -> bytes:
    """A frame of predictions, shape [N]."""
    return _framed(Kind.ANSWER, _ANSWER.pack(number) + predictions.astype(_FLOAT64, copy=False).tobytes())


def read_note(body: bytes) -> dict[str, Any]:
    """The JSON values of a note."""
    document: dict[str, Any] = json.loads(body)
    return document


def read_rows(body: bytes) -> Rows:
    """The rows of a frame."""
    slot, scored_at_us, latency_us, batch_rows, count, columns = _ROWS.unpack_from(body)
    at = _ROWS.size
    values = np.frombuffer(body, _FLOAT64, count * columns, at).reshape(count, columns)
    at += values.nbytes
    predictions = np.frombuffer(body, _FLOAT64, count, at)
    at += predictions.nbytes
    origins = []
    for _ in range(count):
        of_identity, row, of_name, of_hash, as_of_us = _ORIGIN.unpack_from(body, at)
        name_at = at + _ORIGIN.size + of_identity
        hash_at = name_at + of_name
        identity, name = body[at + _ORIGIN.size : name_at].decode(), body[name_at:hash_at].decode()
        at = hash_at + of_hash
        origins.append(Origin(identity, row, name, body[hash_at:at], as_of_us))
    return Rows(slot, scored_at_us, latency_us, batch_rows, values, predictions, origins)


def read_ask(body: bytes) -> Ask:
    """The rows to score of a frame."""
    number, version, count, columns = _ASK.unpack_from(body)
    values = np.frombuffer(body, _FLOAT64, count * columns, _ASK.size).reshape(count, columns)
    return Ask(number, version.decode(), values)


def read_answer(body: bytes) -> tuple[int, Matrix]:
    """The number of an ask, and its predictions."""
    return _ANSWER.unpack_from(body)[0], np.frombuffer(body, _FLOAT64, offset=_ANSWER.size)


class Reader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that these bytes complete."""
        self._left += data
        at = 0
        while len(self._left) - at >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._left, at)
            end = at + _HEAD.size + length
            if end > len(self._left):
                break
            yield Kind(kind), bytes(self._left[at + _HEAD.size : end])
            at = end
        del self._left[:at]


def _framed(kind: Kind, body: bytes) -> bytes:
    return _HEAD.pack(len(body), kind) + body
