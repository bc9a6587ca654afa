"""Dead letters on a real server: listed, replayed once, dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from quantmesh.streams.v1.dead_letter_pb2 import DeadLetter
from quantmesh.streams.v1.order_pb2 import Order
from runtime.errors import NotFoundError
from runtime.redis_client import Client
from streams import Outputs, OutRecord, Poison, Processor, Producer, Record, keys, load_catalog
from streams.operations import dead_letters
from streams.operations.dead_letters import LetterId, Replayed, Selection
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
IN_MEMORY = CATALOG.model_copy(
    update={"streams": {n: s.model_copy(update={"durability": "memory"}) for n, s in CATALOG.streams.items()}}
)
"""For servers that cannot wait for their disk."""
RAW = CATALOG.stream("features.raw")
ALL = Selection()


async def bury(redis: Client, count: int = 8) -> None:
    """Have a processor give up on every record, by two reasons."""

    async def refuse(partition: int, records: Sequence[Record]) -> Outputs:
        return Outputs(dead=[Poison(r, "ODD" if r.payload[-1] % 2 else "EVEN", "no") for r in records])

    await Producer(redis, CATALOG).send_many([OutRecord(RAW.name, f"K{n}", f"{n}".encode()) for n in range(count)])
    processor = Processor(redis, CATALOG, RAW.name, refuse)
    running = asyncio.create_task(processor.run())
    await until(lambda: _has(redis, count))
    processor.stop()
    await running


async def letters(redis: Client, wanted: Selection = ALL) -> list[dead_letters.Letter]:
    return [letter async for letter in dead_letters.letters(redis, RAW.name, 4, wanted)]


async def _has(redis: Client, count: int) -> bool:
    return len(await letters(redis)) == count


async def payloads(redis: Client, stream: str = RAW.name) -> list[bytes]:
    found: list[bytes] = []
    for partition in range(4):
        found += [fields[keys.PAYLOAD] for _, fields in await redis.xrange(keys.entries(stream, partition))]
    return found


async def test_letters_are_selected_by_partition_reason_and_id(redis: Client) -> None:
    await bury(redis)
    odd = await letters(redis, Selection(reason="ODD"))
    assert sorted(letter.message.payload for letter in odd) == [b"1", b"3", b"5", b"7"]
    partition = odd[0].id.partition
    assert {letter.id.partition for letter in await letters(redis, Selection(partition))} == {partition}
    assert await letters(redis, Selection(ids=(odd[0].id,))) == [odd[0]]
    with pytest.raises(NotFoundError, match="0/1-1"):
        await letters(redis, Selection(ids=(odd[0].id, LetterId(0, "1-1"))))


async def test_many_letters_are_read_page_by_page(redis: Client) -> None:
    letter = DeadLetter(stream=RAW.name, reason="X").SerializeToString()
    for n in range(450):
        await redis.xadd(keys.dead_letters(RAW.name, 1), {keys.PAYLOAD: letter}, id=f"1-{n + 1}")
    found = await letters(redis)
    assert [letter.id.entry_id for letter in found] == [f"1-{n + 1}" for n in range(450)]
    assert await dead_letters.drop(redis, RAW.name, 4, ALL) == 450
    assert await letters(redis) == []


async def test_a_replay_puts_the_record_back_where_it_came_from_and_removes_the_letter(redis: Client) -> None:
    await bury(redis)
    before = {letter.message.payload: letter.id.partition for letter in await letters(redis)}
    assert await dead_letters.replay(redis, CATALOG, RAW, Selection(reason="ODD")) == Replayed(4, 0)
    assert sorted(letter.message.payload for letter in await letters(redis)) == [b"0", b"2", b"4", b"6"]
    for partition in range(4):
        entries = await redis.xrange(keys.entries(RAW.name, partition))
        for _, fields in entries:
            assert before[fields[keys.PAYLOAD]] == partition
    assert sorted(await payloads(redis)) == sorted([b"%d" % n for n in range(8)] + [b"1", b"3", b"5", b"7"])


async def test_a_replay_that_died_before_it_removed_the_letter_is_done_again_without_a_second_record(
    redis: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(redis, 3)

    async def die(*_: object) -> int:
        raise ConnectionError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(dead_letters, "_remove", die)
        with pytest.raises(ConnectionError):
            await dead_letters.replay(redis, CATALOG, RAW, ALL)
    assert len(await letters(redis)) == 3
    await dead_letters.replay(redis, CATALOG, RAW, ALL)
    assert await letters(redis) == []
    assert len(await payloads(redis)) == 3 + 3


async def test_two_operators_at_once_put_it_back_once(redis: Client) -> None:
    await bury(redis, 20)
    await asyncio.gather(*(dead_letters.replay(redis, CATALOG, RAW, ALL) for _ in range(3)))
    assert len(await payloads(redis)) == 20 + 20


async def test_an_order_whose_id_is_still_remembered_can_be_replayed(redis: Client) -> None:
    """Its first record took the order id; the replay has an identity of its own."""
    orders = IN_MEMORY.stream("orders")
    order = Order(order_id="o1", symbol="AAPL").SerializeToString()
    await Producer(redis, IN_MEMORY).send_many([OutRecord("orders", "AAPL", order, event_id="o1")])
    partition = CATALOG.partition_of("AAPL")
    # As from a mesh that had other partitions: the key says where it belongs, not the letter.
    letter = DeadLetter(stream="orders", partition=(partition + 1) % 4, reason="X", payload=order, traceparent="00-t")
    await redis.xadd(keys.dead_letters("orders", (partition + 1) % 4), {keys.PAYLOAD: letter.SerializeToString()})
    assert (await dead_letters.replay(redis, IN_MEMORY, orders, ALL)).replayed == 1
    entries = await redis.xrange(keys.entries("orders", partition))
    assert [fields[keys.PAYLOAD] for _, fields in entries] == [order, order]
    assert entries[1][1][keys.TRACEPARENT] == b"00-t"


async def test_what_is_no_letter_of_the_stream_stays_and_is_counted(redis: Client) -> None:
    await redis.xadd(keys.dead_letters(RAW.name, 0), {keys.PAYLOAD: b"\xff\xff"})
    other = DeadLetter(stream="orders", payload=b"x").SerializeToString()
    await redis.xadd(keys.dead_letters(RAW.name, 0), {keys.PAYLOAD: other})
    assert await dead_letters.replay(redis, CATALOG, RAW, ALL) == Replayed(0, 2)
    assert [letter.message.reason for letter in await letters(redis)] == ["NOT_A_DEAD_LETTER", ""]
    assert await payloads(redis) == []
