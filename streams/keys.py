"""Every Redis key of the fabric. Keys of one partition share its hash tag, so that one script may touch them all."""

from __future__ import annotations

PAYLOAD = b"payload"
"""Entry field with the protobuf message."""

TRACEPARENT = b"traceparent"
"""Entry field with the W3C traceparent; absent when there is none."""


def entries(stream: str, partition: int) -> str:
    """The Redis stream of a partition."""
    return f"{stream}:{{{partition}}}"


def dead_letters(stream: str, partition: int) -> str:
    """The Redis stream of a partition's dead letters."""
    return entries(f"deadletter.{stream}", partition)


def producer(producer_id: str, partition: int) -> str:
    """Hash: epoch of a producer, last sequence and answer for each stream."""
    return f"producer:{{{partition}}}:{producer_id}"


def producer_epoch(producer_id: str) -> str:
    """Epoch of the newest producer with an id that was given to it."""
    return f"producer.epoch:{producer_id}"


SEEN_BUCKETS = 4
"""Sets of event ids that take turns, one for each deduplication window by the server's clock (produce.lua)."""


def seen(stream: str, partition: int, bucket: int) -> str:
    """Set of the event ids accepted in the turn of a bucket, which is less than `SEEN_BUCKETS`."""
    return f"seen:{{{partition}}}:{stream}:{bucket}"


def group(stream: str, group_name: str, partition: int) -> str:
    """Hash: lease (owner, epoch, until_ms) and progress (offset, read; lost: trimmed before it was read) of a
    group; `dropped` when an operator says that nobody need wait for it."""
    return f"group:{{{partition}}}:{stream}:{group_name}"


def appended(stream: str, partition: int) -> str:
    """How many records were ever appended to a partition; less what a group has read, it is the group's backlog."""
    return f"appended:{{{partition}}}:{stream}"


PARTITIONS = "mesh:partitions"
"""How many partitions the streams of this server have. Written once, by the first who uses them."""


def members(stream: str, group_name: str) -> str:
    """Sorted set of the group's live members by heartbeat, milliseconds."""
    return f"members:{stream}:{group_name}"


def state(name: str, partition: int) -> str:
    """Hash: state of a stateful transform, written by its commits."""
    return f"state:{{{partition}}}:{name}"


def fence(strategy: str, partition: int) -> str:
    """Lowest deployment generation whose signals the partition still accepts."""
    return f"fence:{{{partition}}}:{strategy}"
