"""Gathers single records into batches, by size and by time, with a bound on the memory that waits.

A lane is one partition of one stream. While a batch of it is under way, the next one fills; so under load batches are
full and nobody waits for the clock. A record that is posted costs no future, no lock and no turn of the event loop as
long as there is room: what became of it is told for its batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runtime.process import ended
from streams.catalog import Catalog
from streams.records import OutRecord

_OVERHEAD_BYTES = 400
"""What a waiting record costs beside its payload."""


class Lanes:
    """All lanes of one producer."""

    def __init__(
        self,
        catalog: Catalog,
        send: Callable[[str, int, Sequence[OutRecord]], Awaitable[Any]],
        max_in_flight_bytes: int,
    ) -> None:
        self._catalog = catalog
        self._send = send
        self._free_bytes = self._capacity = max_in_flight_bytes
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._queue: deque[_Waiting] = deque()
        self._error: Exception | None = None

    async def send(self, record: OutRecord) -> None:
        """Take a record as soon as there is room; returns when it was sent. Raises why it was not."""
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane, size = self._lane(record), self._size(record)
        if self._has_room(size):
            lane.put(record, size).futures.append(sent)
        else:
            self._queue.append(_Waiting(lane, record, size, sent, posted=False))
        await self._patiently(sent)

    async def post(self, record: OutRecord) -> None:
        """Take a record as soon as there is room; the next flush tells whether it was sent.

        Raises the error of its lane's batch that failed while this record waited for room: it must not be written
        before those that failed.
        """
        lane, size = self._lane(record), self._size(record)
        if self._has_room(size):
            lane.put(record, size).posted = True
        else:
            taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(_Waiting(lane, record, size, taken, posted=True))
            await self._patiently(taken)

    def raise_failed(self) -> None:
        """Raise the first error of a posted record since this was asked, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def flush(self) -> None:
        """Send what was taken, and wait for it. Raises the first error of a posted record, once."""
        for batch in [batch for lane in self._lanes.values() for batch in lane.hurry()]:
            await batch.ended.wait()
        self.raise_failed()

    async def close(self) -> None:
        """Flush, and end the lanes' tasks."""
        try:
            await self.flush()
        finally:
            lanes, self._lanes = self._lanes, {}
            await ended(*(lane.task for lane in lanes.values()))

    def _lane(self, record: OutRecord) -> _Lane:
        name, partition = record.stream, self._catalog.partition_of(record.key)
        lane = self._lanes.get((name, partition))
        if lane is None:
            stream = self._catalog.stream(name)

            async def send(records: Sequence[OutRecord]) -> None:
                await self._send(name, partition, records)

            lane = _Lane(send, stream.batch_size, stream.max_batch_delay_ms / 1000, self._settled)
            self._lanes[name, partition] = lane
        return lane

    def _size(self, record: OutRecord) -> int:
        size = len(record.payload) + _OVERHEAD_BYTES
        return min(size, self._capacity)  # one that is larger than all the room goes alone

    def _has_room(self, size: int) -> bool:
        """Take the room, if nobody waits for it: a small record must not pass a large one."""
        if self._queue or self._free_bytes < size:
            return False
        self._free_bytes -= size
        return True

    async def _patiently(self, future: asyncio.Future[None]) -> None:
        try:
            await future
        except asyncio.CancelledError:
            self._admit()  # there may be room for what is behind one that has gone
            raise

    def _admit(self) -> None:
        """Put the records that wait into their lanes, in turn, as far as there is room; here, and not in the tasks that
        wait, lest a task that comes meanwhile be faster."""
        while self._queue:
            waiting = self._queue[0]
            if not waiting.future.done():
                if self._free_bytes < waiting.size:
                    return
                self._free_bytes -= waiting.size
                batch = waiting.lane.put(waiting.record, waiting.size)
                if waiting.posted:
                    batch.posted = True
                    waiting.future.set_result(None)
                else:
                    batch.futures.append(waiting.future)
            self._queue.popleft()

    def _settled(self, lane: _Lane, batches: Sequence[_Batch], error: BaseException | None) -> None:
        """Tell how batches ended, and make room. What of their lane waits for room fails with them."""
        for batch in batches:
            batch.ended.set()
            _settle(batch.futures, error)
            self._free_bytes += batch.size
        if error is not None:
            _settle((waiting.future for waiting in self._queue if waiting.lane is lane), error)
            # Who cancels a close knows; raised later, where nobody was cancelled, it would be taken for another one.
            if self._error is None and isinstance(error, Exception) and any(batch.posted for batch in batches):
                self._error = error
        self._admit()


class _Lane:
    """Sends its records in order, batch after batch."""

    def __init__(
        self,
        send: Callable[[Sequence[OutRecord]], Awaitable[None]],
        batch_size: int,
        delay_s: float,
        settled: Callable[[_Lane, Sequence[_Batch], BaseException | None], None],
    ) -> None:
        self._send = send
        self._batch_size = batch_size
        self._delay_s = delay_s
        self._settled = settled
        self._batches: deque[_Batch] = deque()
        self._open: _Batch | None = None
        """The last of the batches, as long as it takes records."""
        self._filled = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def put(self, record: OutRecord, size: int) -> _Batch:
        """Add a record to the batch that it returns."""
        batch = self._open
        if batch is None:
            batch = self._open = _Batch()
            self._batches.append(batch)
            self._filled.set()
        batch.records.append(record)
        batch.size += size
        if len(batch.records) >= self._batch_size:
            batch.hurry.set()
            self._open = None
        return batch

    def hurry(self) -> list[_Batch]:
        """Send all that waits, without any delay; returns the batches."""
        if self._open is not None:
            self._open.hurry.set()
        return list(self._batches)

    async def _run(self) -> None:
        try:
            while True:
                await self._filled.wait()
                batch = self._batches[0]
                if self._delay_s:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._delay_s):
                            await batch.hurry.wait()
                if batch is self._open:
                    self._open = None
                await self._send_first(batch)
        except BaseException as error:  # cancelled, most likely
            self._settle(len(self._batches), error)
            raise

    async def _send_first(self, batch: _Batch) -> None:
        try:
            await self._send(batch.records)
        except Exception as error:
            # What comes behind must not be written first: it fails too, and may be sent again in order.
            self._settle(len(self._batches), error)
        else:
            self._settle(1)

    def _settle(self, count: int, error: BaseException | None = None) -> None:
        batches = [self._batches.popleft() for _ in range(count)]
        if not self._batches:
            self._open = None
            self._filled.clear()
        self._settled(self, batches, error)


@dataclass(slots=True)
class _Batch:
    """Records that are sent, or fail, together."""

    records: list[OutRecord] = field(default_factory=list)
    size: int = 0
    posted: bool = False
    """Whether one of them was posted."""
    futures: list[asyncio.Future[None]] = field(default_factory=list)
    """Of those who wait for what becomes of their record."""
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """It is full, or to be flushed."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that waits for room."""

    lane: _Lane
    record: OutRecord
    size: int
    future: asyncio.Future[None]
    posted: bool


def _settle(futures: Iterable[asyncio.Future[None]], error: BaseException | None) -> None:
    for future in futures:
        if future.done():  # its caller has gone
            continue
        if error is None:
            future.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(error)
