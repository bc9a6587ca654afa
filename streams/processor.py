"""The processor: consume, transform, produce, with exactly-once effect.

Each partition is owned by one member of the group at a time. The owner reads from the committed offset, transforms,
and commits outputs, state and offset in one script that checks its lease, the offset, and the fences. A crash before
the commit leaves nothing, a crash after it loses nothing, and a member that only thinks it owns the partition is
refused. After any doubt (a refused commit, Redis away, an error in the transform) the partition starts again from
what is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from redis.asyncio import Redis

from runtime.redis_client import AWAY
from streams.catalog import Catalog
from streams.leases import LEASE_MS, Backoff, LeaseLostError, Leases, StreamFencedError, every, pause
from streams.reading import read
from streams.records import Outputs, Record

Transform: TypeAlias = Callable[[int, Sequence[Record]], Awaitable[Outputs]]
"""(partition, records) → outputs. May be called again with records that it has seen: after `on_assigned`."""


class Processor:
    """One member of a group: owns its fair share of a stream's partitions while `run` runs."""

    def __init__(
        self,
        redis: Redis,
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

    async def run(self) -> None:
        """Process until `stop` is called."""
        await every(self._leases.heartbeat_s, self._ended, self._rebalance)
        for release, _ in self._owners.values():
            release.set()
        await asyncio.gather(*(owner for _, owner in self._owners.values()))
        with suppress(*AWAY):  # it will be found silent
            await self._leases.live_members(leave=True)

    def stop(self) -> None:
        """Make `run` finish the steps under way, give the partitions back and return."""
        self._ended.set()

    async def _rebalance(self) -> None:
        live = await self._leases.live_members()
        await self._leases.renew_all()
        place = live.index(self._leases.member)
        wanted = {p for p in range(self._leases.catalog.partitions) if p % len(live) == place}
        for partition, (release, owner) in list(self._owners.items()):
            if owner.done():
                owner.result()  # only a bug of ours ends it by an exception
                del self._owners[partition]
            elif partition not in wanted:
                release.set()  # it finishes its step; the leases of the others are renewed meanwhile
        for partition in sorted(wanted - self._owners.keys()):
            release = asyncio.Event()
            self._owners[partition] = (release, asyncio.create_task(self._own(partition, release)))

    async def _own(self, partition: int, release: asyncio.Event) -> None:
        """Own a partition until told to let go."""
        backoff = Backoff(self._leases.stream.name, self._leases.group)
        while not release.is_set():
            try:
                offset = await self._leases.acquire(partition)
                if offset is None:
                    await pause(release, self._leases.heartbeat_s)
                    continue
                if self._on_assigned:
                    await self._on_assigned(partition)
                while not release.is_set():
                    found = await read(self._leases.redis, self._leases.stream, {partition: offset}, self._batch_size)
                    for records in found.values():
                        offset = await self._step(partition, offset, records)
                    backoff.reset()
            except LeaseLostError:
                self._leases.forget(partition)
            except Exception as error:  # whatever it was, the records are still there
                self._leases.forget(partition)
                await backoff.after(error, release)
        with suppress(*AWAY):  # the lease ends by itself
            await self._leases.release(partition)

    async def _step(self, partition: int, offset: str, records: Sequence[Record]) -> str:
        while True:
            outputs = await self._transform(partition, records)
            try:
                return await self._leases.commit(partition, offset, records, outputs)
            except StreamFencedError as fenced:
                if self._on_fenced is None:
                    raise
                await self._on_fenced(fenced.strategy, fenced.generation)
