"""The audit of a stream: what is there against what was counted, identities, order, and payloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import blake2b

from google.protobuf.message import Message

from runtime.redis_client import Client
from streams.catalog import Catalog, Stream
from streams.operations.inspect import groups_of
from streams.operations.payloads import Payloads
from streams.operations.snapshot import GroupSnapshot, PartitionSnapshot, order, snapshot
from streams.operations.tail import entries
from streams.records import Record

EXAMPLES = 5
"""Faults of one kind in one partition that the report shows; all are counted."""

ENTRY_IDS = "ENTRY_IDS"
"""An entry's id is not above that of the entry before."""
DELETED = "DELETED"
"""An entry was deleted from the middle."""
FOREIGN = "FOREIGN"
"""More entries than the fabric has appended: someone wrote around it."""
MISSING = "MISSING"
"""Fewer entries than the fabric has appended and could have been trimmed."""
GROUP_AHEAD = "GROUP_AHEAD"
"""A group has read further than the stream goes: the server lost entries."""
DUPLICATE = "DUPLICATE"
"""Two records with one identity."""
OUT_OF_ORDER = "OUT_OF_ORDER"
"""A record's `event_time` is before that of an earlier record of its series."""
UNREADABLE = "UNREADABLE"
"""The payload is not the message that the catalog names, or lacks its key."""
WRONG_PARTITION = "WRONG_PARTITION"
"""The record's key belongs to another partition, so its order is not kept."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of thing that is wrong in one partition."""

    partition: int
    kind: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartitionAudit:
    """What was looked at in one partition, and what is wrong with it."""

    partition: int
    records: int
    appended: int
    added: int | None
    """Entries ever added as the server counts them; None when it does not."""
    trimmed: int
    """Records that retention has taken, as far as the counters say."""
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """The report on a stream."""

    stream: str
    partitions: tuple[PartitionAudit, ...]
    payload_known: bool
    """False when the catalog's message is not installed here: then payloads were compared as bytes only."""
    server_counts: bool
    """False before Redis 7, where the server does not count entries: then one that was deleted after all groups had
    read it is not told from one that retention took."""
    repeats: int
    """Equal records of an at-least-once stream, where they are no fault."""

    @property
    def faults(self) -> list[Fault]:
        """Everything that is wrong."""
        return [fault for partition in self.partitions for fault in partition.faults]

    @property
    def sound(self) -> bool:
        """Whether nothing is."""
        return not self.faults


async def verify(redis: Client, catalog: Catalog, stream: Stream) -> Audit:
    """Audit a stream as it is now; writes nothing, and may run beside producers and consumers.

    Takes about 100 bytes of memory for each record of a partition (of the whole stream, when it has an
    `idempotency_field`: a business identity must be unique across partitions).
    """
    payloads = Payloads(stream)
    groups = await groups_of(redis, stream, catalog.partitions)
    identities = _Identities(stream)
    audits = [
        await _partition(redis, catalog, stream, groups, partition, payloads, identities)
        for partition in range(catalog.partitions)
    ]
    return Audit(
        stream.name,
        tuple(audits),
        payload_known=payloads.known,
        server_counts=all(audit.added is not None or not audit.appended for audit in audits),
        repeats=identities.repeats,
    )


class _Identities:
    """Identities seen so far: of the partition, or of the stream when they are the business's own."""

    def __init__(self, stream: Stream) -> None:
        self._of_business = bool(stream.idempotency_field)
        self._repeats_are_faults = self._of_business or stream.delivery == "exactly_once"
        self._seen: set[bytes] = set()
        self.repeats = 0

    def next_partition(self) -> None:
        if not self._of_business:
            self._seen.clear()

    def is_fault(self, payload: bytes, identity: str) -> bool:
        """Take a record in; returns whether it is there a second time and must not be."""
        digest = blake2b(identity.encode() if identity else payload, digest_size=16).digest()
        if digest not in self._seen:
            self._seen.add(digest)
            return False
        if not self._repeats_are_faults:
            self.repeats += 1
        return self._repeats_are_faults


@dataclass(slots=True)
class _Findings:
    """Faults of one partition, while they are being found."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        self.counts[kind] += count
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(example)

    def faults(self, partition: int) -> tuple[Fault, ...]:
        return tuple(Fault(partition, kind, n, tuple(self.examples[kind])) for kind, n in self.counts.items())


async def _partition(
    redis: Client,
    catalog: Catalog,
    stream: Stream,
    groups: list[str],
    partition: int,
    payloads: Payloads,
    identities: _Identities,
) -> PartitionAudit:
    identities.next_partition()
    findings = _Findings()
    before = await snapshot(redis, stream.name, groups, partition)
    unread = dict.fromkeys(groups, 0)
    offsets = {group.name: order(group.offset) for group in before.groups}
    newest_us: dict[Hashable, int] = {}
    count, previous = 0, (0, 0)
    if before.last_id:
        async for record in entries(redis, stream, partition, until=before.last_id):
            count += 1
            position = order(record.entry_id)
            if position <= previous:
                findings.add(ENTRY_IDS, record.entry_id)
            previous = position
            for name, offset in offsets.items():
                unread[name] += position > offset
            _look(record, catalog, payloads, identities, newest_us, findings)
    after = await snapshot(redis, stream.name, groups, partition)
    _count(stream, before, findings)
    if after.first_id == before.first_id:  # else retention was at work meanwhile, and what was counted is no more
        if count != before.records:
            findings.add(
                MISSING, f"{before.records} entries are counted, {count} were read", abs(before.records - count)
            )
        for group in before.groups:
            _count_unread(stream, before, group, unread[group.name], findings)
    return PartitionAudit(
        partition,
        records=count,
        appended=before.appended,
        added=before.added,
        trimmed=max(0, before.appended - before.records),
        faults=findings.faults(partition),
    )


def _look(
    record: Record,
    catalog: Catalog,
    payloads: Payloads,
    identities: _Identities,
    newest_us: dict[Hashable, int],
    findings: _Findings,
) -> None:
    """Look at one record."""
    message: Message | None = payloads.parse(record.payload)
    if identities.is_fault(record.payload, payloads.identity(message) if message is not None else ""):
        findings.add(DUPLICATE, record.entry_id)
    if message is None:
        if payloads.known:
            findings.add(UNREADABLE, record.entry_id)
        return
    key = payloads.key(message)
    if key is not None and catalog.partition_of(key) != record.partition:
        findings.add(WRONG_PARTITION, f"{record.entry_id}: key {key}")
    at_us = payloads.event_time_us(message)
    if at_us is not None:
        series = payloads.series(message)
        if at_us < newest_us.get(series, at_us):
            findings.add(OUT_OF_ORDER, f"{record.entry_id}: {'/'.join(map(str, series))}")  # type: ignore[call-overload]
        newest_us[series] = max(at_us, newest_us.get(series, at_us))


def _count(stream: Stream, found: PartitionSnapshot, findings: _Findings) -> None:
    """Compare the fabric's counter with the server's, and with what is there."""
    if found.records > found.appended:
        surplus = found.records - found.appended
        findings.add(FOREIGN, f"{found.records} entries, {found.appended} appended", surplus)
    elif found.added is not None and found.added > found.appended:
        surplus = found.added - found.appended
        findings.add(FOREIGN, f"{found.added} entries were added, {found.appended} by the fabric", surplus)
    elif found.added is not None and found.added < found.appended:
        missing = found.appended - found.added
        findings.add(MISSING, f"{found.added} entries were added, {found.appended} by the fabric's count", missing)
    if found.first_id and order(found.deleted_id) > order(found.first_id):
        findings.add(DELETED, f"up to {found.deleted_id}")


def _count_unread(
    stream: Stream, found: PartitionSnapshot, group: GroupSnapshot, unread: int, findings: _Findings
) -> None:
    """Compare what a group has yet to read with what is there for it."""
    if order(group.offset) > order(found.end):
        findings.add(GROUP_AHEAD, f"{group.name} is at {group.offset}, the stream ends at {found.end}")
        return
    expected = found.appended - group.read - group.lost
    # drop_oldest takes what is unread; so does retention from a group that is dropped.
    may_be_trimmed = stream.retention.policy == "drop_oldest" or group.dropped or group.name not in stream.groups
    if unread < expected and not may_be_trimmed:
        findings.add(MISSING, f"{group.name} has {expected} records to read, {unread} are there", expected - unread)
