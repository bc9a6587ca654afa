"""What an operator does to groups: give one up, and make the members of one share the partitions anew."""

from __future__ import annotations

import asyncio
import time

from runtime.errors import FailedPreconditionError, NotFoundError
from runtime.redis_client import Client
from streams import keys
from streams.catalog import Stream
from streams.operations.inspect import groups_of, live_members, states_of
from streams.operations.snapshot import SCRIPTS, PartitionSnapshot, snapshots

_POLL_S = 0.05


async def drop_group(redis: Client, stream: Stream, group: str, partitions: int) -> None:
    """Mark a group as dropped in every partition: backpressure and retention ignore it until a member acquires the
    partition again. What is trimmed meanwhile is lost to the group.

    Raises NotFoundError (UNKNOWN_GROUP), FailedPreconditionError (GROUP_ALIVE) when a member is alive.
    """
    await _require_group(redis, stream, group, partitions)
    alive = await live_members(redis, stream.name, group, await snapshots(redis, stream.name, [group], partitions))
    for partition in range(partitions) if not alive else ():
        # Looked at again by the script: a member may have come since.
        owner = await SCRIPTS.run(redis, "drop_group", [keys.group(stream.name, group, partition)], ())
        if owner:
            alive.append(owner.decode())
    if alive:
        raise FailedPreconditionError(
            f"group {group} of {stream.name} has live members ({', '.join(alive)}): stop them first",
            reason="GROUP_ALIVE",
            metadata={"stream": stream.name, "group": group},
        )


async def rebalance(
    redis: Client, stream: Stream, group: str, partitions: int, wait_s: float
) -> list[PartitionSnapshot]:
    """End every lease of a group, so that its members take their fair share again; exactly-once holds, because a
    commit under an ended lease is refused. Returns how the partitions are owned when all are, or after `wait_s`.

    Raises NotFoundError (UNKNOWN_GROUP), FailedPreconditionError when no member is alive (GROUP_DEAD), or when it is a
    work queue (NO_LEASES).
    """
    await _require_group(redis, stream, group, partitions)
    before = await snapshots(redis, stream.name, [group], partitions)
    if any(state.is_work_queue for state in states_of(group, before)):
        raise FailedPreconditionError(
            f"group {group} of {stream.name} is a work queue: any member takes any job, so there is nothing to share",
            reason="NO_LEASES",
            metadata={"stream": stream.name, "group": group},
        )
    if not await live_members(redis, stream.name, group, before):
        raise FailedPreconditionError(
            f"group {group} of {stream.name} has no live member that could take a partition",
            reason="GROUP_DEAD",
            metadata={"stream": stream.name, "group": group},
        )
    for partition in range(partitions):
        await SCRIPTS.run(redis, "revoke", [keys.group(stream.name, group, partition)], ())
    deadline = time.monotonic() + wait_s
    while True:
        after = await snapshots(redis, stream.name, [group], partitions)
        if all(state.owner for state in states_of(group, after)) or time.monotonic() > deadline:
            return after
        await asyncio.sleep(_POLL_S)


async def _require_group(redis: Client, stream: Stream, group: str, partitions: int) -> None:
    known = await groups_of(redis, stream, partitions)
    if group not in known:
        raise NotFoundError(
            f"{stream.name} has no group {group!r}; there are: {', '.join(known)}", reason="UNKNOWN_GROUP"
        )
