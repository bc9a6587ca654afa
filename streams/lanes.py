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
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._posted: set[asyncio.Future[None]] = set()
        self._error: BaseException | None = None

    async def put(self, record: OutRecord) -> asyncio.Future[None]:
        """Take a record as soon as there is room; returns the future of its send."""
        size = min(_size(record), self._capacity)  # one that is larger than all the room goes alone
        async with self._room:
            await self._room.wait_for(lambda: self._free_bytes >= size)
            self._free_bytes -= size
        name, partition = record.stream, self._catalog.partition_of(record.key)
        lane = self._lanes.get((name, partition))
        if lane is None:
            stream = self._catalog.stream(name)

            async def send(records: Sequence[OutRecord]) -> None:
                await self._send(name, partition, records)

            lane = self._lanes[name, partition] = _Lane(
                send, stream.batch_size, stream.max_batch_delay_ms / 1000, self._sent
            )
        return lane.put(record)

    def forget(self, future: asyncio.Future[None]) -> None:
        """Let the next flush tell how a record's send ended."""
        self._posted.add(future)
        future.add_done_callback(self._settled)

    async def flush(self) -> None:
        """Send what waits, and wait for it. Raises the first error of a forgotten record, once."""
        for lane in self._lanes.values():
            lane.hurry()
        await asyncio.gather(*(lane.idle() for lane in self._lanes.values()))
        if self._posted:
            await asyncio.wait(set(self._posted))
            await asyncio.sleep(0)  # their callbacks
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def close(self) -> None:
        """Flush, and end the lanes' tasks."""
        try:
            await self.flush()
        finally:
            for lane in self._lanes.values():
                await lane.end()

    def _settled(self, future: asyncio.Future[None]) -> None:
        self._posted.discard(future)
        if not future.cancelled() and future.exception() is not None:
            self._error = self._error or future.exception()

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
    ) -> None:
        self._send = send
        self._batch_size = batch_size
        self._delay_s = delay_s
        self._sent = sent
        self._waiting: list[tuple[OutRecord, asyncio.Future[None]]] = []
        self._filled = asyncio.Event()
        self._hurry = asyncio.Event()
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
        if self._waiting:
            self._hurry.set()

    async def idle(self) -> None:
        await self._idle.wait()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            if len(self._waiting) < self._batch_size and self._delay_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), self._delay_s)
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            if not self._waiting:
                self._filled.clear()
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
        for _, future in batch:
            if future.done():  # its caller has gone
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        await self._sent(records)
