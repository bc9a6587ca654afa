"""What is there: the streams that exist, their groups, and how far behind each group is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from runtime.errors import ConfigurationError, NotFoundError
from runtime.redis_client import Client
from streams import keys
from streams.catalog import Catalog, Stream
from streams.leases import LEASE_MS
from streams.operations.snapshot import GroupSnapshot, PartitionSnapshot, snapshots
from streams.work_queue import IDLE_MS

_SCAN_COUNT = 1000


async def bound_partitions(redis: Client, configured: int, *, is_set: bool) -> int:
    """How many partitions the streams of this server have; the configured number when nobody has used them yet.

    Raises ConfigurationError (reason PARTITIONS_DIFFER) when another number `is_set` by the user.
    """
    bound = int(await redis.get(keys.PARTITIONS) or configured)
    if is_set and bound != configured:
        raise ConfigurationError(
            f"the streams of this Redis have {bound} partitions, not {configured}: "
            f"set QUANTMESH_PARTITIONS to {bound}, or unset it",
            reason="PARTITIONS_DIFFER",
            metadata={"partitions": str(bound), "setting": "QUANTMESH_PARTITIONS"},
        )
    return bound


async def existing_streams(redis: Client, catalog: Catalog) -> list[Stream]:
    """The streams of the catalog, in its order; in place of a template, the streams of it that have keys, by name."""
    found: list[Stream] = []
    for name, stream in catalog.streams.items():
        if "{" in name:
            found += [catalog.stream(concrete) for concrete in await _concrete(redis, catalog, name)]
        else:
            found.append(stream)
    return found


async def _concrete(redis: Client, catalog: Catalog, template: str) -> list[str]:
    names: set[str] = set()
    pattern = f"{template.partition('{')[0]}*:{{*}}"
    async for key in redis.scan_iter(match=pattern, count=_SCAN_COUNT, _type="stream"):
        name = key.decode(errors="replace").rpartition(":{")[0]
        try:
            catalog.stream(name)
        except NotFoundError:  # it only looks like one
            continue
        names.add(name)
    return sorted(names)


async def groups_of(redis: Client, stream: Stream, partitions: int) -> list[str]:
    """The declared groups, then those that read it without being declared, by name."""
    found: set[str] = set()
    for partition in range(partitions):
        try:
            groups = await redis.xinfo_groups(keys.entries(stream.name, partition))
        except ResponseError:  # nothing is there yet
            continue
        found |= {group["name"].decode() for group in groups}
    return [*stream.groups, *sorted(found - set(stream.groups))]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind on a stream: in records over all partitions, and the age of the oldest of them."""

    stream: str
    group: str
    records: int
    ms: int
    pending: int
    dropped: bool
    """An operator said, in every partition, that nobody need wait for the group."""


def lag_of(stream: str, group: str, partitions: Sequence[PartitionSnapshot]) -> Lag:
    """The lag of one of the groups that the snapshots have."""
    states = states_of(group, partitions)
    return Lag(
        stream,
        group,
        records=sum(state.lag_records for state in states),
        ms=max(state.lag_ms for state in states),
        pending=sum(state.pending for state in states),
        dropped=all(state.dropped for state in states),
    )


def states_of(group: str, partitions: Sequence[PartitionSnapshot]) -> list[GroupSnapshot]:
    """A group's state in each partition."""
    return [state for partition in partitions for state in partition.groups if state.name == group]


async def current_lag(redis: Client, catalog: Catalog, stream: str, group: str) -> Lag:
    """The lag of a group on a stream now."""
    return lag_of(stream, group, await snapshots(redis, stream, [group], catalog.partitions))


async def live_members(redis: Client, stream: str, group: str, partitions: Sequence[PartitionSnapshot]) -> list[str]:
    """Members that gave a sign of life within the usual time, or own a partition; sorted."""
    states = states_of(group, partitions)
    silence_ms = IDLE_MS if any(state.is_work_queue for state in states) else LEASE_MS
    seconds, microseconds = await redis.time()
    oldest_ms = seconds * 1000 + microseconds // 1000 - silence_ms
    heard: Any = await redis.zrangebyscore(keys.members(stream, group), oldest_ms, "+inf")
    owners = {state.owner for state in states if state.owner}
    return sorted(owners | {member.decode() for member in heard})
