"""The clock that streamed records are held against: when the server took them in.

Unlike the wall clock it gives the same verdict on a record however often, and however late, the record is read.
"""

from __future__ import annotations

from streams import Record


def appended_us(record: Record) -> int:
    """The end of the millisecond in which the server appended a record, microseconds."""
    return (int(record.entry_id.partition("-")[0]) + 1) * 1000
