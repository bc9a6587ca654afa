"""The processor: consume, transform, produce, with exactly-once effect.

Each partition is owned by one member of the group at a time. The owner reads from the committed offset, transforms,
and commits outputs, state and offset in one script that checks its lease, the offset, and the fences. A crash before
the commit leaves nothing, a crash after it loses nothing, and a member that only thinks it owns the partition is
refused. After any doubt (a refused commit, Redis away, an error in the transform) the partition starts again from
what is committed.

A record that its transform cannot take is found by trying the records of the failed batch one by one; after the
stream's `max_attempts` it is a dead letter.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from runtime.errors import ConfigurationError, UnavailableError
from runtime.process import ended
from runtime.redis_client import AWAY, Client
from streams import failpoints
from streams.attempts import Attempts
from streams.catalog import Catalog
from streams.leases import LEASE_MS, LeaseLostError, Leases, Setbacks, StreamFencedError, every, pause
from streams.reading import read
from streams.records import Outputs, Record

Transform: TypeAlias = Callable[[int, Sequence[Record]], Awaitable[Outputs]]
"""(partition, records) → outputs. May be called again with records that it has seen: after `on_assigned`."""

_NOT_THE_RECORDS_FAULT: tuple[type[Exception], ...] = (*AWAY, UnavailableError)


class Processor:
    """One member of a group: owns its fair share of a stream's partitions while `run` runs."""

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        stream: str,
        transform: Transform,
        *,
        group: str | None = None,
        member: str | None = None,
        batch_size: int | None = None,
        lease_ms: int = LEASE_MS,
        on_assigned: Callable[[int], Awaitable[None]] | None = None,
        on_fenced: Callable[[str, int], Awaitable[None]] | None = None,
    ) -> None:
        """Defaults: the group and batch size of the catalog, and a member id of its own.

        `on_assigned(partition)` runs before the first record after each change of ownership or doubt: load state from
        `streams.keys.state` there. `on_fenced(strategy, generation)` runs when a commit met a higher fence: return
        when the next outputs will be made under that generation; the same records are then transformed again.
        """
        definition = catalog.stream(stream)
        self._leases = Leases(redis, catalog, definition, group or definition.group, member, lease_ms)
        self._transform = transform
        self._batch_size = batch_size or definition.batch_size
        self._on_assigned = on_assigned
        self._on_fenced = on_fenced
        self._ended = asyncio.Event()
        self._owners: dict[int, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        # For the life of the member, not of an ownership: where partitions change hands faster than a record is tried,
        # it would never be given up, and all behind it would wait for ever.
        self._attempts: dict[int, Attempts] = defaultdict(lambda: Attempts(definition.max_attempts))

    async def run(self) -> None:
        """Process until `stop` is called. A cancelled `run` leaves nothing running: its partitions' leases end.

        Raises ConfigurationError (PARTITIONS_DIFFER), and what a bug raises.
        """
        heartbeat = asyncio.create_task(every(self._leases.heartbeat_s, self._rebalance))
        stopping = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({heartbeat, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if heartbeat.done():
                heartbeat.result()
            for release, _ in self._owners.values():
                release.set()
            # Leases are renewed until the steps under way are done.
            await asyncio.gather(*(owner for _, owner in self._owners.values()))
            await ended(heartbeat)  # lest one that is under way says, after the leave, that this member lives
            with suppress(*AWAY):  # it will be found silent
                await self._leases.live_members(leave=True)
        finally:
            await ended(heartbeat, stopping, *(owner for _, owner in self._owners.values()))

    def stop(self) -> None:
        """Make `run` finish the steps under way, give the partitions back and return."""
        self._ended.set()

    async def _rebalance(self) -> None:
        live = await self._leases.live_members()
        await self._leases.renew_all()
        if self._ended.is_set():
            return
        place = live.index(self._leases.member)
        wanted = {p for p in range(self._leases.catalog.partitions) if p % len(live) == place}
        for partition, (release, owner) in list(self._owners.items()):
            if owner.done():
                owner.result()  # a fault of the configuration, or a bug of ours
                del self._owners[partition]
            elif partition not in wanted:
                release.set()  # it finishes its step; the leases of the others are renewed meanwhile
        for partition in sorted(wanted - self._owners.keys()):
            release = asyncio.Event()
            self._owners[partition] = (release, asyncio.create_task(self._own(partition, release)))

    async def _own(self, partition: int, release: asyncio.Event) -> None:
        """Own a partition until told to let go."""
        setbacks = Setbacks(self._leases.stream.name, self._leases.group, partition)
        attempts = self._attempts[partition]
        while not release.is_set():
            try:
                offset = await self._leases.acquire(partition)
                if offset is None:
                    await pause(release, self._leases.heartbeat_s)
                    continue
                if self._on_assigned:
                    await self._on_assigned(partition)
                while not release.is_set():
                    self._leases.require(partition)
                    count = attempts.batch_size(offset, self._batch_size)
                    found = await read(self._leases.redis, self._leases.stream, {partition: offset}, count)
                    for records in found.values():
                        failpoints.hit("process.read")
                        offset = await self._step(partition, offset, records, attempts, release)
                        setbacks.over()
            except LeaseLostError:
                if not release.is_set():
                    self._leases.forget(partition)
            except ConfigurationError:
                raise
            except Exception as error:  # whatever it was, the records are still there
                self._leases.forget(partition)
                await setbacks.after(error, release)
        with suppress(*AWAY):  # the lease ends by itself
            await self._leases.release(partition)

    async def _step(
        self, partition: int, offset: str, records: Sequence[Record], attempts: Attempts, release: asyncio.Event
    ) -> str:
        given_up = attempts.given_up(records)
        while True:
            outputs = Outputs(dead=[given_up]) if given_up else await self._transformed(partition, records, attempts)
            failpoints.hit("process.transformed")
            try:
                return await self._leases.commit(partition, offset, records, outputs, release)
            except StreamFencedError as fenced:
                if self._on_fenced is None:
                    raise
                await self._on_fenced(fenced.strategy, fenced.generation)

    async def _transformed(self, partition: int, records: Sequence[Record], attempts: Attempts) -> Outputs:
        try:
            return await self._transform(partition, records)
        except _NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            attempts.failed(records, error)
            raise
