"""Order per key in the ways to send that gather records: at first use, and after a batch that was given up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from runtime.redis_client import AWAY, connect
from streams import Catalog, OutRecord, Producer, keys, load_catalog
from tests.redis_servers import Running
from tests.tcp_proxy import TcpProxy, tcp_proxy

RAW = "features.raw"
CATALOG = load_catalog(4)


def catalog(**limits: float) -> Catalog:
    changed = CATALOG.stream(RAW).model_copy(update=limits)
    return CATALOG.model_copy(update={"streams": {**CATALOG.streams, RAW: changed}})


def record(number: int, text: str = "") -> OutRecord:
    return OutRecord(RAW, "A", f"{number}|{text}".encode(), event_id=str(number))


async def numbers(redis: Redis) -> list[int]:
    entries = await redis.xrange(keys.entries(RAW, CATALOG.partition_of("A")))
    return [int(fields[keys.PAYLOAD].partition(b"|")[0]) for _, fields in entries]


@pytest.fixture
def proxy(redis_servers: Running) -> Iterator[TcpProxy]:
    redis_servers.empty()
    with tcp_proxy(redis_servers.masters[0].port) as made:
        yield made


@pytest.mark.parametrize("trial", range(5))
async def test_sends_begun_in_order_arrive_in_order_from_the_first_on(redis: Redis, trial: int) -> None:
    """Whoever begins while the producer still asks the server what it can do must queue behind those before it."""
    async with Producer(redis, CATALOG) as producer:
        sending = []
        for number in range(200):
            sending.append(asyncio.create_task(producer.send(record(number))))
            if number % (trial + 2) == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*sending)
    assert await numbers(redis) == list(range(200))


async def test_sends_begun_in_order_arrive_in_order_when_memory_is_short(redis: Redis) -> None:
    async with Producer(redis, CATALOG, max_in_flight_bytes=4_000) as producer:
        await producer.send(record(0))
        sizes = [3_000 if number % 7 == 0 else 10 for number in range(1, 200)]
        await asyncio.gather(*(producer.send(record(n, "x" * size)) for n, size in enumerate(sizes, start=1)))
    assert await numbers(redis) == list(range(200))


async def test_what_was_posted_after_a_batch_that_failed_does_not_overtake_it(redis: Redis, proxy: TcpProxy) -> None:
    """The application sends again from the first that is not acknowledged, and its keys must keep their order."""
    client = connect(proxy.url, socket_timeout_s=0.5)
    producer = Producer(client, catalog(batch_size=10, max_batch_delay_ms=1.0), max_wait_s=0.3)
    await producer.send(record(0))
    proxy.decide = lambda request: "cut_before" if b"doomed" in request else ""
    for number in range(1, 11):
        await producer.post(record(number, "doomed"))
    for number in range(11, 21):
        await producer.post(record(number))
    with pytest.raises(AWAY):
        await producer.flush()
    proxy.decide = lambda _: ""
    for number in range(1, 21):
        await producer.send(record(number))
    await producer.close()
    await client.aclose()
    assert await numbers(redis) == list(range(21))


async def test_a_flush_does_not_wait_for_the_linger(redis: Redis) -> None:
    async with Producer(redis, catalog(batch_size=100, max_batch_delay_ms=5_000.0)) as producer:
        for number in range(150):
            await producer.post(record(number))
        began = time.monotonic()
        await producer.flush()
        assert time.monotonic() - began < 2.5
    assert await numbers(redis) == list(range(150))
