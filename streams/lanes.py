"""Gathers single records into batches, by size and by time, with a bound on the memory that waits.

A lane is one partition of one stream. While a batch of it is under way, the next one fills; so under load batches are
full and nobody waits for the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from streams.catalog import Catalog
from streams.records import OutRecord

_OVERHEAD_BYTES = 400
"""What a waiting record costs beside its payload."""


def _size(record: OutRecord) -> int:
    return len(record.payload) + _OVERHEAD_BYTES


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
        self._room = asyncio.Condition()
        self._turn = asyncio.Lock()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._posted: set[asyncio.Future[None]] = set()
        self._error: BaseException | None = None

    async def put(self, record: OutRecord) -> asyncio.Future[None]:
        """Take a record as soon as there is room; returns the future of its send.

        Raises the error of its lane's last batch when that failed while this record waited for room: it must not be
        written before those that failed.
        """
        lane = self._lane(record)
        failures = lane.failures
        size = min(_size(record), self._capacity)  # one that is larger than all the room goes alone
        async with self._turn, self._room:  # by turns: a small record must not pass a large one that waits
            await self._room.wait_for(lambda: self._free_bytes >= size)
            if lane.failures != failures and lane.error is not None:
                raise lane.error
            self._free_bytes -= size
        return lane.put(record)

    def forget(self, future: asyncio.Future[None]) -> None:
        """Let the next flush tell how a record's send ended."""
        self._posted.add(future)
        future.add_done_callback(self._settled)

    def raise_failed(self) -> None:
        """Raise the first error of a forgotten record since this was asked, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def flush(self) -> None:
        """Send what waits, and wait for it. Raises the first error of a forgotten record, once."""
        for lane in self._lanes.values():
            lane.hurry()
        await asyncio.gather(*(lane.idle() for lane in self._lanes.values()))
        if self._posted:
            await asyncio.wait(set(self._posted))
            await asyncio.sleep(0)  # their callbacks
        self.raise_failed()

    async def close(self) -> None:
        """Flush, and end the lanes' tasks."""
        try:
            await self.flush()
        finally:
            for lane in self._lanes.values():
                await lane.end()

    def _lane(self, record: OutRecord) -> _Lane:
        name, partition = record.stream, self._catalog.partition_of(record.key)
        lane = self._lanes.get((name, partition))
        if lane is None:
            stream = self._catalog.stream(name)

            async def send(records: Sequence[OutRecord]) -> None:
                await self._send(name, partition, records)

            lane = self._lanes[name, partition] = _Lane(
                send, stream.batch_size, stream.max_batch_delay_ms / 1000, self._sent, self._failed
            )
        return lane

    def _settled(self, future: asyncio.Future[None]) -> None:
        self._posted.discard(future)
        if not future.cancelled():
            future.exception()  # `_failed` has noted it

    def _failed(self, futures: Sequence[asyncio.Future[None]], error: BaseException) -> None:
        if self._error is None and any(future in self._posted for future in futures):
            self._error = error

    async def _sent(self, records: Sequence[OutRecord]) -> None:
        async with self._room:
            self._free_bytes += sum(min(_size(record), self._capacity) for record in records)
            self._room.notify_all()


class _Lane:
    """Sends its records in order, batch after batch."""

    def __init__(
        self,
        send: Callable[[Sequence[OutRecord]], Awaitable[None]],
        batch_size: int,
        delay_s: float,
        sent: Callable[[Sequence[OutRecord]], Awaitable[None]],
        failed: Callable[[Sequence[asyncio.Future[None]], BaseException], None],
    ) -> None:
        self.failures = 0
        self.error: BaseException | None = None
        self._failed = failed
        self._send = send
        self._batch_size = batch_size
        self._delay_s = delay_s
        self._sent = sent
        self._waiting: list[tuple[OutRecord, asyncio.Future[None]]] = []
        self._filled = asyncio.Event()
        self._hurry = asyncio.Event()
        self._flushing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run())

    def put(self, record: OutRecord) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future))
        self._idle.clear()
        self._filled.set()
        if len(self._waiting) >= self._batch_size:
            self._hurry.set()
        return future

    def hurry(self) -> None:
        """Send all that waits now, without any delay."""
        if self._waiting:
            self._flushing = True
            self._hurry.set()

    async def idle(self) -> None:
        await self._idle.wait()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            if len(self._waiting) < self._batch_size and self._delay_s and not self._flushing:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), self._delay_s)
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            if not self._waiting:
                self._filled.clear()
                self._flushing = False
            if len(self._waiting) < self._batch_size:
                self._hurry.clear()
            await self._send_batch(batch)
            if not self._waiting:
                self._idle.set()

    async def _send_batch(self, batch: Sequence[tuple[OutRecord, asyncio.Future[None]]]) -> None:
        records = [record for record, _ in batch]
        error: BaseException | None = None
        try:
            await self._send(records)
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as failed:
            error = failed
        if error is not None:
            # What comes behind must not be written first: it fails too, and may be sent again in order.
            batch = [*batch, *self._waiting]
            self._waiting = []
            self._filled.clear()
            records = [record for record, _ in batch]
            self.failures, self.error = self.failures + 1, error
            self._failed([future for _, future in batch], error)
        for _, future in batch:
            if future.done():  # its caller has gone
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        await self._sent(records)
