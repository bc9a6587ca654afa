"""The recorded signals of one partition, to be found by the vector that they were made from.

They are kept on disk (SQLite's own temporary database, which spills when it outgrows its cache): a day of a large mesh
has millions, and neither their order nor their number is taken for granted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_PARAMETERS = 500


class Entry(NamedTuple):
    """A signal as it was found in its stream, or a vector that is held for a strategy (`payload` None)."""

    number: int
    """Grows in the order of the stream, over all streams that were read."""
    strategy: str
    """By the name of the stream."""
    entry_id: str
    vector_hash: bytes
    payload: bytes | None


class Recorded:
    """All entries of one partition. To be closed."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute(
            "CREATE TABLE entries (number INTEGER PRIMARY KEY, strategy TEXT, entry_id TEXT, vector_hash BLOB,"
            " payload BLOB, used INTEGER DEFAULT 0)"
        )
        self._indexed = False

    def add(self, entries: Iterable[tuple[str, str, bytes, bytes | None]]) -> None:
        """Take entries in: strategy, entry id, vector hash, payload. Not after the first `take`."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO entries (strategy, entry_id, vector_hash, payload) VALUES (?, ?, ?, ?)", entries
        )
        self._db.execute("COMMIT")

    def take(self, hashes: Sequence[bytes]) -> dict[tuple[str, bytes], list[Entry]]:
        """The entries of these vectors that were not taken before, in their order, by strategy and hash.

        A vector that occurs twice here and twice in the stream has two signals: whoever asks for it once gets one.
        """
        if not self._indexed:
            self._db.execute("CREATE INDEX by_hash ON entries (vector_hash)")
            self._indexed = True
        wanted: dict[bytes, int] = {}
        for each in hashes:
            wanted[each] = wanted.get(each, 0) + 1
        found: dict[tuple[str, bytes], list[Entry]] = {}
        distinct = list(wanted)
        self._db.execute("BEGIN")
        for start in range(0, len(distinct), _PARAMETERS):
            some = distinct[start : start + _PARAMETERS]
            rows = self._db.execute(
                "SELECT number, strategy, entry_id, vector_hash, payload FROM entries"
                f" WHERE used = 0 AND vector_hash IN ({','.join('?' * len(some))}) ORDER BY number",
                some,
            ).fetchall()
            used = []
            for entry in map(Entry._make, rows):
                of_vector = found.setdefault((entry.strategy, entry.vector_hash), [])
                if len(of_vector) < wanted[entry.vector_hash]:
                    of_vector.append(entry)
                    used.append((entry.number,))
            self._db.executemany("UPDATE entries SET used = 1 WHERE number = ?", used)
        self._db.execute("COMMIT")
        return found

    def left(self) -> Iterator[tuple[Entry, bool]]:
        """The entries that no vector asked for, in their order; and whether another of the same vector was taken."""
        rows = self._db.execute(
            "SELECT number, strategy, entry_id, vector_hash, payload, EXISTS (SELECT 1 FROM entries AS other WHERE"
            " other.used = 1 AND other.strategy = entries.strategy AND other.vector_hash = entries.vector_hash)"
            " FROM entries WHERE used = 0 ORDER BY number"
        )
        for *fields, again in rows:
            yield Entry._make(fields), bool(again)

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
