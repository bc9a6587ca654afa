"""How single records become batches: order, room in memory, what fails together, and who is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import OutRecord, load_catalog
from streams.lanes import Lanes
from tests.waiting import until

RAW = "features.raw"
CATALOG = load_catalog(2)
KEYS = {CATALOG.partition_of(f"K{n}"): f"K{n}" for n in range(20)}
NEVER_MS = 3_600_000.0


class BrokenError(Exception):
    """What a write fails with."""


class Written:
    """Takes batches, as soon as the gate is open; those with a record of `failing` fail."""

    def __init__(self) -> None:
        self.begun: list[list[bytes]] = []
        self.batches: list[list[bytes]] = []
        self.gate = asyncio.Event()
        self.failing = b""

    async def write(self, stream: str, partition: int, records: Sequence[OutRecord]) -> None:
        payloads = [record.payload for record in records]
        self.begun.append(payloads)
        await self.gate.wait()
        if self.failing and self.failing in payloads:
            raise BrokenError
        self.batches.append(payloads)


def lanes(written: Written, batch_size: int = 2, delay_ms: float = 0.0, room: int = 1_000_000) -> Lanes:
    stream = CATALOG.stream(RAW).model_copy(update={"batch_size": batch_size, "max_batch_delay_ms": delay_ms})
    return Lanes(CATALOG.model_copy(update={"streams": {RAW: stream}}), written.write, room)


def record(payload: bytes, partition: int = 0) -> OutRecord:
    return OutRecord(RAW, KEYS[partition], payload)


@asynccontextmanager
async def ending(made: Lanes, written: Written) -> AsyncIterator[None]:
    """Open the gate and close at the end."""
    try:
        yield
    finally:
        written.gate.set()
        written.failing = b""
        with suppress(BrokenError):
            await made.close()


async def settled() -> None:
    """Let every task go on until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=80),
    room=st.integers(500, 8_000),
    batch_size=st.integers(1, 12),
    delay_ms=st.sampled_from([0.0, 0.1]),
)
def test_records_keep_their_order_and_the_room_whoever_sends_them(
    seed: int, sizes: list[int], room: int, batch_size: int, delay_ms: float
) -> None:
    rng, in_memory = random.Random(seed), 0
    orders: list[list[int]] = [[], []]

    def cost(record: OutRecord) -> int:
        return min(len(record.payload) + 400, room)

    class Slow(Written):
        async def write(self, stream: str, partition: int, records: Sequence[OutRecord]) -> None:
            nonlocal in_memory
            assert len(records) <= batch_size
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            orders[partition] += [int(each.payload.partition(b"|")[0]) for each in records]
            in_memory -= sum(cost(each) for each in records if each.payload.endswith(b"p"))

    async def run() -> None:
        slow = Slow()
        made = lanes(slow, batch_size, delay_ms, room)

        async def post(each: OutRecord) -> None:
            nonlocal in_memory
            await made.post(each)
            in_memory += cost(each)
            assert in_memory <= room

        tasks = []
        for number, size in enumerate(sizes):
            way, mark = rng.choice([(made.send, b"s"), (post, b"p")])
            each = record(b"%d|%s%s" % (number, bytes(size), mark), rng.randrange(2))
            tasks.append(asyncio.create_task(way(each)))
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await made.close()

    asyncio.run(run())
    assert sorted(orders[0] + orders[1]) == list(range(len(sizes)))
    assert all(numbers == sorted(numbers) for numbers in orders)


async def test_while_a_batch_is_under_way_the_next_one_fills() -> None:
    written = Written()
    made = lanes(written, batch_size=3)
    async with ending(made, written):
        await made.post(record(b"0"))
        await settled()
        for n in range(1, 6):
            await made.post(record(b"%d" % n))
    assert written.batches == [[b"0"], [b"1", b"2", b"3"], [b"4", b"5"]]


async def test_a_flush_waits_for_what_was_there_and_not_for_what_comes_meanwhile() -> None:
    written = Written()
    made = lanes(written, batch_size=2, delay_ms=NEVER_MS)
    async with ending(made, written):
        for n in range(3):
            await made.post(record(b"%d" % n))
        flushing = asyncio.create_task(made.flush())
        await settled()
        await made.post(record(b"3"))
        await made.post(record(b"later"))
        assert not flushing.done()
        written.gate.set()
        async with asyncio.timeout(5):
            await flushing
        assert written.batches == [[b"0", b"1"], [b"2", b"3"]]


async def test_what_is_behind_a_batch_that_fails_fails_too_and_each_is_told_once() -> None:
    written = Written()
    written.failing = b"0"
    made = lanes(written, batch_size=1, room=1_300)
    async with ending(made, written):
        await made.post(record(b"0"))
        sent = asyncio.create_task(made.send(record(b"1")))
        other = asyncio.create_task(made.send(record(b"other", partition=1)))
        await settled()
        for_room = [asyncio.create_task(way(record(b"2"))) for way in (made.send, made.post)]
        other_for_room = asyncio.create_task(made.send(record(b"other for room", partition=1)))
        await settled()
        written.gate.set()
        outcomes = await asyncio.gather(sent, *for_room, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BrokenError] * 3
        await asyncio.gather(other, other_for_room)
        with pytest.raises(BrokenError):
            await made.flush()
        await made.flush()
        written.failing = b""
        await asyncio.gather(*(made.send(record(b"%d" % n)) for n in range(3)))
    assert [payload for (payload,) in written.batches] == [b"other", b"other for room", b"0", b"1", b"2"]


async def test_a_flush_is_silent_about_a_record_whose_sender_was_told() -> None:
    written = Written()
    written.failing = b"0"
    written.gate.set()
    made = lanes(written)
    async with ending(made, written):
        with pytest.raises(BrokenError):
            await made.send(record(b"0"))
        await made.flush()


async def test_who_is_cancelled_disturbs_nobody_in_the_batch() -> None:
    written = Written()
    made = lanes(written, batch_size=3)
    async with ending(made, written):
        sending = [asyncio.create_task(made.send(record(b"%d" % n))) for n in range(3)]
        await settled()
        sending[1].cancel()
        await settled()
        written.gate.set()
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), asyncio.CancelledError, type(None)]
    assert written.batches == [[b"0", b"1", b"2"]]


@pytest.mark.parametrize("way", ["send", "post"])
async def test_who_is_cancelled_while_there_is_no_room_lets_those_behind_go(way: str) -> None:
    written = Written()
    made = lanes(written, batch_size=1, room=1_000)
    async with ending(made, written):
        await made.post(record(b"0"))
        large = asyncio.create_task(getattr(made, way)(record(bytes(600))))
        small = asyncio.create_task(made.post(record(b"small")))
        await settled()
        assert not small.done(), "it must not pass the large one"
        large.cancel()
        async with asyncio.timeout(5):
            await small
        with pytest.raises(asyncio.CancelledError):
            await large
    assert written.batches == [[b"0"], [b"small"]]


async def test_a_close_that_is_cancelled_cancels_all_who_wait() -> None:
    written = Written()
    made = lanes(written, batch_size=1, room=1_000)
    waiting = [asyncio.create_task(made.send(record(b"%d" % n))) for n in range(2)]
    waiting += [asyncio.create_task(way(record(b"for room"))) for way in (made.send, made.post)]
    await settled()
    closing = asyncio.create_task(made.close())
    await settled()
    closing.cancel()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*waiting, closing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 5
    assert written.begun == [[b"0"]]
    assert written.batches == []


async def test_a_cancelled_close_cancels_nobody_later() -> None:
    written = Written()
    made = lanes(written)
    await made.post(record(b"0"))
    closing = asyncio.create_task(made.close())
    await settled()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    written.gate.set()
    await made.post(record(b"1"))
    await made.close()
    assert written.batches == [[b"1"]]


async def test_a_close_ends_even_when_a_cancellation_is_lost() -> None:
    """As redis-py's connections lose one that comes together with the answer."""

    class Deaf(Written):
        async def write(self, stream: str, partition: int, records: Sequence[OutRecord]) -> None:
            self.begun.append([])
            with suppress(asyncio.CancelledError):
                await self.gate.wait()

    deaf = Deaf()
    made = lanes(deaf)
    await made.post(record(b"0"))
    closing = asyncio.create_task(made.close())
    await until(lambda: bool(deaf.begun))
    closing.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({closing})


async def test_a_write_that_fails_without_a_turn_of_the_loop_leaves_nobody_waiting() -> None:
    class Refusing(Written):
        async def write(self, stream: str, partition: int, records: Sequence[OutRecord]) -> None:
            raise BrokenError

    refusing = Refusing()
    made = lanes(refusing, batch_size=1, room=500)
    async with asyncio.timeout(5), ending(made, refusing):
        outcomes = await asyncio.gather(*(made.send(record(b"")) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BrokenError] * 5
