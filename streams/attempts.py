"""Which record of a failed batch is to blame: counted in memory, one partition at a time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from streams.records import Poison, Record

TRANSFORM_FAILED = "TRANSFORM_FAILED"


class Attempts:
    """The failures of a partition's transform since it last went on, in one member.

    A batch that failed is read again record by record, up to its end. A record that fails alone `most` times is given
    up on. A restart forgets the count, so a record may be tried more often than that, never less.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._single_until = ""
        self._blamed = ""
        self._count = 0
        self._error = ""

    def batch_size(self, offset: str, usual: int) -> int:
        """How many records to read after an offset."""
        if self._single_until and _order(offset) >= _order(self._single_until):
            self._single_until = ""  # past the end of the batch that failed
        return 1 if self._single_until else usual

    def failed(self, records: Sequence[Record], error: Exception) -> None:
        """Count a failure of the transform."""
        if len(records) > 1:
            self._single_until = records[-1].entry_id
            return
        (record,) = records
        if record.entry_id != self._blamed:
            self._blamed, self._count = record.entry_id, 0
        self._count += 1
        self._error = repr(error)
        self._single_until = self._single_until or record.entry_id

    def given_up(self, records: Sequence[Record]) -> Poison | None:
        """The poison that a single record is, when it was tried often enough."""
        if len(records) != 1 or records[0].entry_id != self._blamed or self._count < self._most:
            return None
        return Poison(records[0], TRANSFORM_FAILED, self._error, attempts=self._count)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)
