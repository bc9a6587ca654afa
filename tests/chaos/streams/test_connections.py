"""Replies that are lost after the server has executed, connections that are cut, commands that come late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from runtime.redis_client import Client, connect
from streams import OutRecord, Producer, SendResult, keys
from tests.chaos.streams.drive import drive
from tests.chaos.streams.schedules import RAW, peaceful
from tests.redis_servers import Running
from tests.tcp_proxy import Fault, TcpProxy, at_random, once, tcp_proxy

CATALOG = peaceful(0).catalog
ALL: tuple[Fault, ...] = ("lose_reply", "cut_before", "cut_within", "late", "slow")


@pytest.fixture
def proxy(redis_servers: Running) -> Iterator[TcpProxy]:
    redis_servers.empty()
    with tcp_proxy(redis_servers.masters[0].port) as made:
        yield made


@pytest.fixture
async def behind(proxy: TcpProxy) -> AsyncIterator[Client]:
    client = connect(proxy.url, socket_timeout_s=1.0)
    yield client
    await client.aclose()


async def payloads(redis: Redis, key: str) -> list[bytes]:
    entries = await redis.xrange(keys.entries(RAW, CATALOG.partition_of(key)))
    return [fields[keys.PAYLOAD] for _, fields in entries]


def test_crashes_on_a_bad_network_lose_and_repeat_nothing(proxy: TcpProxy, redis_servers: Running) -> None:
    proxy.decide = at_random(7, 0.1, ALL)
    direct = f"redis://{redis_servers.masters[0].address}/0"
    found = drive("--url", proxy.url, "--control-url", direct, "--seeds", "300-311", "--jobs", "8")
    assert not found.unsound
    assert min(proxy.counts[fault] for fault in ALL) > 10


@pytest.mark.parametrize("mode", ["send", "post"])
def test_every_way_to_send_is_exactly_once_by_sequences_alone(
    proxy: TcpProxy, redis_servers: Running, mode: str
) -> None:
    proxy.decide = at_random(8, 0.1, ALL)
    direct = f"redis://{redis_servers.masters[0].address}/0"
    found = drive(
        *("--url", proxy.url, "--control-url", direct, "--peaceful", mode, "--no-event-ids"),
        *("--seeds", "0-3", "--jobs", "4"),
    )
    assert not found.unsound
    assert proxy.counts["lose_reply"] > 3


@pytest.mark.parametrize("fault", ALL)
async def test_one_fault_and_the_batch_is_there_once(
    redis: Redis, behind: Client, proxy: TcpProxy, fault: Fault
) -> None:
    producer = Producer(behind, CATALOG)
    await producer.send_many([OutRecord(RAW, "A", b"0")])
    proxy.decide = once(fault)
    assert await producer.send_many([OutRecord(RAW, "A", b"%d" % n) for n in range(1, 50)]) == SendResult(49, 0)
    assert proxy.counts[fault] == 1
    assert await payloads(redis, "A") == [b"%d" % n for n in range(50)]


async def test_a_send_that_was_given_up_cannot_arrive_after_the_next(
    redis: Redis, behind: Client, proxy: TcpProxy
) -> None:
    """It is still on its way when its sender is told of the failure: the next epoch fences it."""
    producer = Producer(behind, CATALOG)
    await producer.send_many([OutRecord(RAW, "A", b"0")])
    proxy.decide = lambda request: "late" if b"EVAL" in request else ""
    sending = asyncio.create_task(producer.send_many([OutRecord(RAW, "A", b"given up")]))
    while not proxy.counts["late"]:
        await asyncio.sleep(0.001)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    proxy.decide = lambda _: ""
    await producer.send_many([OutRecord(RAW, "A", b"next")])
    await asyncio.sleep(0.6)  # twice what the proxy holds it back for
    assert await payloads(redis, "A") == [b"0", b"next"]
