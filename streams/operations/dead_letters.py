"""Dead letters: list them, put their records back into the stream, or drop them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

from google.protobuf.message import DecodeError

from quantmesh.streams.v1.dead_letter_pb2 import DeadLetter
from runtime.errors import InvalidInputError, NotFoundError
from runtime.redis_client import Client
from streams import keys
from streams.catalog import Catalog, Stream
from streams.operations.payloads import Payloads
from streams.operations.snapshot import order
from streams.producer import Producer
from streams.records import OutRecord

_PAGE = 200
"""Letters that are read, replayed and removed together."""


@dataclass(frozen=True, slots=True)
class LetterId:
    """Where a dead letter lies: its partition, and its entry id there. Written `2/1764057600000-0`."""

    partition: int
    entry_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one as it is written. Raises InvalidInputError."""
        partition, _, entry_id = text.partition("/")
        try:
            order(entry_id)
            return cls(int(partition), entry_id)
        except ValueError as error:
            raise InvalidInputError.of_field(
                "letter", f"{text!r} is not like 2/1764057600000-0: partition, slash, entry id"
            ) from error

    def __str__(self) -> str:
        return f"{self.partition}/{self.entry_id}"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    id: LetterId
    message: DeadLetter


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters of a stream: all that match. Empty means any."""

    partition: int | None = None
    reason: str = ""
    ids: tuple[LetterId, ...] = ()

    def has(self, letter: Letter) -> bool:
        """Whether a letter is one of them."""
        return (self.partition is None or letter.id.partition == self.partition) and (
            not self.reason or letter.message.reason == self.reason
        )


async def letters(redis: Client, stream: str, partitions: int, wanted: Selection) -> AsyncIterator[Letter]:
    """The selected dead letters of a stream, by partition, oldest first; those that come meanwhile are left out.

    Raises NotFoundError (UNKNOWN_LETTER), before the first one, when one that is named is not there.
    """
    async for chunk in _chunks(redis, stream, partitions, wanted):
        for letter in chunk:
            yield letter


async def _chunks(redis: Client, stream: str, partitions: int, wanted: Selection) -> AsyncIterator[list[Letter]]:
    if wanted.ids:
        named = [await _letter(redis, stream, letter_id) for letter_id in dict.fromkeys(wanted.ids)]
        yield [letter for letter in named if wanted.has(letter)]
        return
    for partition in range(partitions):
        if wanted.partition not in (None, partition):
            continue
        key = keys.dead_letters(stream, partition)
        newest: Any = await redis.xrevrange(key, count=1)
        after, end = "0-0", newest[0][0].decode() if newest else ""
        while end:
            page: Any = await redis.xrange(key, min=f"({after}", max=end, count=_PAGE)
            found = [Letter(LetterId(partition, entry_id.decode()), _message(fields)) for entry_id, fields in page]
            yield [letter for letter in found if wanted.has(letter)]
            if len(page) < _PAGE:
                break
            after = found[-1].id.entry_id


async def _letter(redis: Client, stream: str, letter_id: LetterId) -> Letter:
    key = keys.dead_letters(stream, letter_id.partition)
    found: Any = await redis.xrange(key, min=letter_id.entry_id, max=letter_id.entry_id)
    if not found:
        raise NotFoundError(f"{stream} has no dead letter {letter_id}", reason="UNKNOWN_LETTER")
    return Letter(letter_id, _message(found[0][1]))


def _message(fields: dict[bytes, bytes]) -> DeadLetter:
    payload = fields.get(keys.PAYLOAD, b"")
    try:
        return DeadLetter.FromString(payload)
    except DecodeError:  # of a foreign hand: show it as it is, and let nobody replay it
        return DeadLetter(reason="NOT_A_DEAD_LETTER", payload=payload)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did."""

    replayed: int = 0
    foreign: int = 0
    """Letters that do not say that they came from this stream: they stay."""


async def replay(redis: Client, catalog: Catalog, stream: Stream, wanted: Selection) -> Replayed:
    """Put the records of dead letters back at the end of their stream, and remove the letters.

    Each record is accepted once, however often it is tried, within the stream's `deduplication_hours`: its event id is
    made of the letter's id, and the letter is removed only after the record is as durable as the stream demands.
    Every group of the stream reads the record again, not only the one that gave it up; of its key, it is now the last.

    Raises NotFoundError (UNKNOWN_LETTER), and what `Producer.send_many` raises: the letters that are not done stay.
    """
    payloads = Payloads(stream)
    replayed = foreign = 0
    async with Producer(redis, catalog) as producer:
        async for chunk in _chunks(redis, stream.name, catalog.partitions, wanted):
            own = [letter for letter in chunk if letter.message.stream == stream.name]
            foreign += len(chunk) - len(own)
            await producer.send_many([_record(catalog, stream, payloads, letter) for letter in own])
            await _remove(redis, stream.name, own)
            replayed += len(own)
    return Replayed(replayed, foreign)


async def drop(redis: Client, stream: str, partitions: int, wanted: Selection) -> int:
    """Remove dead letters for good; returns how many. Raises NotFoundError (UNKNOWN_LETTER)."""
    return sum([await _remove(redis, stream, chunk) async for chunk in _chunks(redis, stream, partitions, wanted)])


async def _remove(redis: Client, stream: str, letters: list[Letter]) -> int:
    by_partition: dict[int, list[str]] = {}
    for letter in letters:
        by_partition.setdefault(letter.id.partition, []).append(letter.id.entry_id)
    return sum(
        [int(await redis.xdel(keys.dead_letters(stream, partition), *ids)) for partition, ids in by_partition.items()]
    )


def _record(catalog: Catalog, stream: Stream, payloads: Payloads, letter: Letter) -> OutRecord:
    message = payloads.parse(letter.message.payload)
    key = payloads.key(message) if message is not None else None
    return OutRecord(
        stream.name,
        # A record whose key cannot be read goes where it came from.
        key if key is not None else _key_of(catalog, letter.message.partition),
        letter.message.payload,
        letter.message.traceparent,
        event_id=f"deadletter/{letter.id}",
    )


def _key_of(catalog: Catalog, partition: int) -> str:
    """Some key of a partition. Of one that is no more, because their number was changed: of the one that took over."""
    wanted = partition % catalog.partitions
    return next(key for key in map(str, count()) if catalog.partition_of(key) == wanted)
