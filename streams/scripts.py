"""Every atomic step of the fabric as one typed function over one Lua script (lua/)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ConfigurationError
from runtime.lua import Scripts
from runtime.redis_client import Client
from streams import keys
from streams.catalog import Stream
from streams.durability import Durability
from streams.records import Outputs, OutRecord

_SCRIPTS = Scripts(Path(__file__).with_name("lua"))
NEVER_TRIM = -1


@dataclass(frozen=True, slots=True)
class Produced:
    """Answer of `produce`: status OK (with counts), FENCED (`at`: the known epoch), GAP (`at`: the known sequence; the
    known epoch is 0 when the producer is not known, or not any more) or FULL (`at`: the backlog)."""

    status: str
    accepted: int = 0
    duplicates: int = 0
    dropped: int = 0
    at: int = 0
    known_epoch: int = 0


async def produce(
    redis: Client,
    stream: Stream,
    partition: int,
    *,
    producer_id: str,
    epoch: int,
    first_sequence: int,
    keep_state_ms: int,
    limit: int,
    records: Sequence[OutRecord],
    durability: Durability | None = None,
) -> Produced:
    """Append a batch to one partition, each record once, unless the slowest group would then be behind by more than
    `limit` records (0: no limit). A batch that alone is over the limit passes when there is no backlog.

    An event id that the partition has accepted is a duplicate for the stream's `deduplication_hours` at least and twice
    that at most, by the server's clock; no client's matters.
    """
    arguments: list[str | bytes | int] = [
        stream.name,
        epoch,
        first_sequence,
        stream.retention.max_records or 0,
        max(round(stream.deduplication_hours * 3_600_000), 1),
        keep_state_ms,
        limit,
    ]
    for record in records:
        arguments += (record.payload, record.traceparent, record.event_id)
    key_names = (
        keys.entries(stream.name, partition),
        keys.producer(producer_id, partition),
        keys.appended(stream.name, partition),
        # All of them, though the server's clock says which it looks at: a cluster wants to know every key beforehand.
        *(keys.seen(stream.name, partition, bucket) for bucket in range(keys.SEEN_BUCKETS)),
        *(keys.group(stream.name, group, partition) for group in stream.groups),
    )
    answer = await _durable(redis, "produce", key_names, arguments, durability)
    status = answer[0].decode()
    if status == "OK":
        return Produced(status, int(answer[1]), int(answer[2]), int(answer[3]))
    return Produced(status, at=int(answer[1]), known_epoch=int(answer[2]) if status == "GAP" else 0)


async def add_event_ids(
    redis: Client, stream: str, partition: int, bucket: int, event_ids: Sequence[bytes], keep_ms: int
) -> None:
    """Add ids to a bucket of a partition, as if they had been accepted there; none of it outlives its turn."""
    await _SCRIPTS.run(redis, "add_event_ids", (keys.seen(stream, partition, bucket),), (keep_ms, *event_ids))


async def claim(redis: Client, producer_id: str, clock_us: int) -> int:
    """Epoch of a producer that starts: above those of all that had its id before."""
    return int(await _SCRIPTS.run(redis, "claim", (keys.producer_epoch(producer_id),), (clock_us,)))


@dataclass(frozen=True, slots=True)
class Lease:
    """A member's right to process a partition, until it is renewed or lost. `epoch` is the fencing token."""

    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Answer of `commit`: status OK, LEASE_LOST, OFFSET_MOVED (to `offset`), FENCED (`strategy` at `generation`) or
    FULL (`stream`, whose slowest group is `backlog` records behind)."""

    status: str
    offset: str = ""
    strategy: str = ""
    generation: int = 0
    stream: str = ""
    backlog: int = 0


async def commit(
    redis: Client,
    stream: Stream,
    group: str,
    partition: int,
    lease: Lease,
    *,
    expected_offset: str,
    new_offset: str,
    read: int,
    outputs: Outputs,
    output_streams: Mapping[str, tuple[Stream, int]],
    dead_letters: Sequence[tuple[bytes, str]] = (),
    entries_read: bool,
    durability: Durability | None = None,
) -> Committed:
    """Commit outputs, state, dead letters (payload, traceparent) and offset, all or nothing.

    `output_streams` gives for each stream of the outputs its definition and the most records that its slowest group may
    be behind afterwards (0: no limit).
    """
    key_names = [keys.entries(stream.name, partition), keys.group(stream.name, group, partition)]
    numbers: dict[str, int] = {}

    def number(key: str) -> int:
        if key not in numbers:
            key_names.append(key)
            numbers[key] = len(key_names)
        return numbers[key]

    keep_ms = NEVER_TRIM
    if stream.retention.keep_hours is not None and group in stream.groups:
        keep_ms = round(stream.retention.keep_hours * 3_600_000)
    arguments: list[str | bytes | int] = [
        group,
        lease.owner,
        lease.epoch,
        expected_offset,
        new_offset,
        read,
        keep_ms,
        # Where entries are trimmed before they are read, the count is wrong: the server works the lag out by itself.
        int(entries_read and stream.retention.max_records is None),
        number(keys.dead_letters(stream.name, partition)) if dead_letters else 0,
        stream.dead_letter_max_records,
    ]
    others = [name for name in stream.groups if name != group] if keep_ms != NEVER_TRIM else []
    arguments.append(len(others))
    arguments += (number(keys.group(stream.name, name, partition)) for name in others)
    arguments.append(len(outputs.fences))
    strategies: dict[int, str] = {}
    for strategy, generation in outputs.fences.items():
        fence = number(keys.fence(strategy, partition))
        strategies[fence] = strategy
        arguments += (fence, generation)
    counts = Counter(record.stream for record in outputs.records)
    arguments.append(len(counts))
    for name, count in counts.items():
        output, limit = output_streams[name]
        arguments += (
            number(keys.entries(name, partition)),
            number(keys.appended(name, partition)),
            count,
            limit,
            len(output.groups),
            *(number(keys.group(name, reader, partition)) for reader in output.groups),
        )
    arguments.append(len(outputs.records) + len(dead_letters))
    for record in outputs.records:
        arguments += (number(keys.entries(record.stream, partition)), record.payload, record.traceparent)
    for payload, traceparent in dead_letters:
        arguments += (number(keys.dead_letters(stream.name, partition)), payload, traceparent)
    arguments.append(sum(map(len, outputs.state.values())))
    for name, fields in outputs.state.items():
        for field, value in fields.items():
            arguments += (number(keys.state(name, partition)), field, value)
    answer = await _durable(redis, "commit", key_names, arguments, durability)
    status = answer[0].decode()
    if status == "OFFSET_MOVED":
        return Committed(status, offset=answer[1].decode())
    if status == "FENCED":
        return Committed(status, strategy=strategies[int(answer[1])], generation=int(answer[2]))
    if status == "FULL":
        key = key_names[int(answer[1]) - 1]
        name = next(name for name in counts if keys.entries(name, partition) == key)
        return Committed(status, stream=name, backlog=int(answer[2]))
    return Committed(status)


async def _durable(
    redis: Client,
    name: str,
    key_names: Sequence[str],
    arguments: Sequence[str | bytes | int],
    durability: Durability | None,
) -> Any:
    if durability is None:
        return await _SCRIPTS.run(redis, name, key_names, arguments)
    answer, reached = await _SCRIPTS.run_then(redis, name, key_names, arguments, durability.command)
    if answer[0] == b"OK":
        durability.check(reached)
    return answer


async def acquire(
    redis: Client, stream: Stream, group: str, partition: int, owner: str, lease_ms: int
) -> tuple[Lease, str] | None:
    """Take a partition's lease; returns it with the group's offset, or None when another member holds it.

    Raises ConfigurationError (reason GROUP_IS_WORK_QUEUE).
    """
    key_names = (
        keys.group(stream.name, group, partition),
        keys.entries(stream.name, partition),
        keys.appended(stream.name, partition),
    )
    epoch, offset = await _SCRIPTS.run(redis, "acquire", key_names, (owner, lease_ms, group))
    if epoch < 0:
        raise ConfigurationError(
            f"group {group} of {stream.name} is a work queue: a processor or a consumer needs a group of its own",
            reason="GROUP_IS_WORK_QUEUE",
        )
    return (Lease(owner, int(epoch)), offset.decode()) if epoch else None


async def renew(redis: Client, stream: Stream, group: str, partition: int, lease: Lease, lease_ms: int) -> bool:
    """Renew a lease, or give it back with 0 ms. False when it was lost."""
    key_names = (keys.group(stream.name, group, partition),)
    return bool(await _SCRIPTS.run(redis, "renew", key_names, (lease.owner, lease.epoch, lease_ms)))


async def heartbeat(
    redis: Client, stream: Stream, group: str, member: str, silence_ms: int, *, leave: bool = False
) -> list[str]:
    """Say that a member is alive, or leaves; returns the live members, sorted."""
    live = await _SCRIPTS.run(redis, "heartbeat", (keys.members(stream.name, group),), (member, silence_ms, int(leave)))
    return sorted(name.decode() for name in live)


async def raise_fence(redis: Client, strategy: str, partition: int, generation: int) -> int:
    """Raise a strategy's fence in one partition; returns what it is now."""
    return int(await _SCRIPTS.run(redis, "raise_fence", (keys.fence(strategy, partition),), (generation,)))
