"""The consumer: for work whose effects lie outside of the partition it reads, at least once.

One member of the group has the whole stream, so that it can look across keys; others stand by. The handler's effects
come first, then the offset: after a crash between the two, the handler sees the records again, so its effects must be
idempotent (`OutRecord.event_id`, or an inbox).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from runtime.errors import ConfigurationError
from runtime.process import ended
from runtime.redis_client import AWAY, Client
from streams.catalog import Catalog
from streams.leases import LEASE_MS, LeaseLostError, Leases, Setbacks, every, pause
from streams.reading import read
from streams.records import Outputs, Poison, Record


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, in order."""

    partition: int
    records: Sequence[Record]


Handler: TypeAlias = Callable[[Sequence[Batch]], Awaitable[Sequence[Poison]]]
"""Takes what was read, does its effects, and returns the records it gives up on."""


class Consumer:
    """The exclusive reader of a stream while `run` runs; waits when another member has it."""

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        stream: str,
        handler: Handler,
        *,
        on_assigned: Callable[[], Awaitable[None]] | None = None,
        group: str | None = None,
        member: str | None = None,
        batch_size: int | None = None,
        lease_ms: int = LEASE_MS,
    ) -> None:
        """`on_assigned()` runs before the first record after each change of ownership or doubt: make memory anew there,
        from what the handler keeps."""
        definition = catalog.stream(stream)
        self._leases = Leases(redis, catalog, definition, group or definition.group, member, lease_ms)
        self._handler = handler
        self._on_assigned = on_assigned
        self._batch_size = batch_size or definition.batch_size
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Consume until `stop` is called. A cancelled `run` leaves nothing running: its leases end.

        Raises ConfigurationError (PARTITIONS_DIFFER), and what a bug in the renewals raises.
        """
        renewing = asyncio.create_task(every(self._leases.heartbeat_s, self._leases.renew_all))
        consuming = asyncio.create_task(self._consume())
        try:
            await asyncio.wait({renewing, consuming}, return_when=asyncio.FIRST_COMPLETED)
            if renewing.done():
                renewing.result()
            await consuming
        finally:
            await ended(renewing, consuming)

    def stop(self) -> None:
        """Make `run` finish the step under way and return."""
        self._ended.set()

    async def _consume(self) -> None:
        setbacks = Setbacks(self._leases.stream.name, self._leases.group)
        while not self._ended.is_set():
            try:
                offsets = await self._acquire_all()
                if self._on_assigned and not self._ended.is_set():
                    await self._on_assigned()
                while not self._ended.is_set():
                    await self._step(offsets)
                    setbacks.over()
            except LeaseLostError:
                self._forget()
            except ConfigurationError:
                raise
            except Exception as error:  # whatever it was, the records are still there
                self._forget()
                await setbacks.after(error, self._ended)
        with suppress(*AWAY):  # the leases end by themselves
            for partition in range(self._leases.catalog.partitions):
                await self._leases.release(partition)

    async def _acquire_all(self) -> dict[int, str]:
        """Take partition after partition, always in the same order, so that two members cannot wait for each other."""
        offsets: dict[int, str] = {}
        while len(offsets) < self._leases.catalog.partitions and not self._ended.is_set():
            offset = await self._leases.acquire(len(offsets))
            if offset is None:
                await pause(self._ended, self._leases.heartbeat_s)
            else:
                offsets[len(offsets)] = offset
        return offsets

    async def _step(self, offsets: dict[int, str]) -> None:
        for partition in offsets:
            self._leases.require(partition)
        found = await read(self._leases.redis, self._leases.stream, offsets, self._batch_size)
        if not found:
            return
        dead = await self._handler([Batch(partition, records) for partition, records in found.items()])
        for partition, records in found.items():
            outputs = Outputs(dead=[poison for poison in dead if poison.record.partition == partition])
            offsets[partition] = await self._leases.commit(partition, offsets[partition], records, outputs)

    def _forget(self) -> None:
        for partition in range(self._leases.catalog.partitions):
            self._leases.forget(partition)
