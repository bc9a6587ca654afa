"""The closes that were taken, kept apart from the ticks they came among.

Features look back a year, and a feed of trades fills `market_data.trades` many times in that. So each close is kept
here, under the entry id that it had there, until no window holds it any more: one Redis stream a partition, in the
partition's own slot.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from runtime.redis_client import Client
from streams import Record, keys

NAME = "feature_svc.closes"

_PAGE = 2_000


class Close(NamedTuple):
    """A record that was taken as a close."""

    record: Record
    event_time_us: int


class Closes:
    """Written by the one member that reads all ticks. Ids only grow, so a member that was replaced cannot add any."""

    def __init__(self, redis: Client, partitions: int) -> None:
        self._redis = redis
        self._partitions = partitions
        self._kept: dict[int, deque[tuple[str, int]]] = defaultdict(deque)

    async def load(self) -> list[Record]:
        """Every close that is kept: those of a partition in their order."""
        return [record for partition in range(self._partitions) for record in await self._of(partition)]

    def remember(self, closes: Sequence[Close]) -> None:
        """Say what `load` found, so that `keep` can let go of it."""
        self._kept.clear()
        for close in closes:
            self._kept[close.record.partition].append((close.record.entry_id, close.event_time_us))

    async def keep(self, closes: Sequence[Close], needed_from_us: int) -> None:
        """Add closes, those of a partition in their order, and let go of those before an instant."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for record, event_time_us in closes:
                fields: dict[Any, Any] = {keys.PAYLOAD: record.payload, keys.TRACEPARENT: record.traceparent}
                pipe.xadd(keys.entries(NAME, record.partition), fields, id=record.entry_id)
                self._kept[record.partition].append((record.entry_id, event_time_us))
            for partition, kept in self._kept.items():
                before = len(kept)
                while kept[0][1] < needed_from_us:  # never empty: the newest is in the window, or after it
                    kept.popleft()
                if len(kept) < before:
                    pipe.xtrim(keys.entries(NAME, partition), minid=kept[0][0], approximate=False)
            await pipe.execute()

    async def _of(self, partition: int) -> list[Record]:
        found: list[Record] = []
        start = "-"
        while True:
            page: Any = await self._redis.xrange(keys.entries(NAME, partition), min=start, count=_PAGE)
            for entry_id, fields in page:
                traceparent = fields[keys.TRACEPARENT].decode()
                found.append(Record(NAME, partition, entry_id.decode(), fields[keys.PAYLOAD], traceparent))
            if len(page) < _PAGE:
                return found
            start = f"({found[-1].entry_id}"
