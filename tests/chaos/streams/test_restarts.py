"""Redis itself dies in the middle, and comes back with its append-only file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from runtime.redis_client import connect
from streams import OutRecord, Producer, keys, load_catalog
from tests.chaos.streams.drive import Driving
from tests.chaos.streams.schedules import ORDERS, PARTITIONS
from tests.redis_server import Server, server
from tests.waiting import until

RESTARTS = 3


@pytest.fixture(params=["SIGTERM", "SIGKILL"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def doomed(tmp_path: Path, how: str) -> Iterator[Server]:
    """A server of the test's own. What `everysec` may lose with its machine is measured in test_failover.py."""
    fsync = "always" if how == "SIGKILL" else "everysec"
    with server(tmp_path / "server", {"databases": "16", "appendfsync": fsync}) as one:
        yield one


def end(redis: Server, how: str) -> None:
    if how == "SIGTERM":
        with suppress(RedisError, OSError):
            redis.ask("SHUTDOWN")
        assert redis._process is not None
        redis._process.wait(10)
    redis.kill()


def commands(redis: Server) -> int:
    """How many it has executed since it came up."""
    return int(str(redis.info()["total_commands_processed"]))


async def test_a_server_that_dies_and_comes_back_loses_and_repeats_nothing(doomed: Server, how: str) -> None:
    url = f"redis://{doomed.address}/0"
    driving = Driving("--url", url, "--seeds", "400-403", "--jobs", "4", "--records", "1200")
    died = 0
    try:
        await until(lambda: bool(doomed.info().get("db3")))  # all four are under way
        while died < RESTARTS and driving.running:
            await until(lambda: commands(doomed) > 600 or not driving.running)
            if driving.running:
                await asyncio.to_thread(end, doomed, how)
                await asyncio.to_thread(doomed.start)
                died += 1
    finally:
        found = await driving.ended()
    assert died == RESTARTS
    assert not found.unsound


async def test_an_order_that_was_acknowledged_is_on_the_disk(tmp_path: Path) -> None:
    """`durability: aof`, as orders have it, on a server that syncs once a second and is killed."""
    catalog = load_catalog(PARTITIONS)
    with server(tmp_path / "server") as redis:
        client = connect(f"redis://{redis.address}/0", socket_timeout_s=3.0)
        acknowledged: list[bytes] = []

        async def publish() -> None:
            producer = Producer(client, catalog, max_wait_s=10.0)
            for n in range(10_000):
                await producer.send_many([OutRecord(ORDERS, "A", b"%d" % n, event_id=str(n))])
                acknowledged.append(b"%d" % n)

        publishing = asyncio.create_task(publish())
        for _ in range(2):
            enough = len(acknowledged) + 2
            await until(lambda enough=enough: len(acknowledged) >= enough)  # type: ignore[misc]
            await asyncio.to_thread(redis.kill)
            await asyncio.to_thread(redis.start)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        entries = await client.xrange(keys.entries(ORDERS, catalog.partition_of("A")))
        found = [fields[keys.PAYLOAD] for _, fields in entries]
        assert found[: len(acknowledged)] == acknowledged, "lost or out of order"
        assert len(found) <= len(acknowledged) + 1  # the one under way
        await client.aclose()
