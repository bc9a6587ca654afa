"""A cluster's primary dies and its replica takes over: what that can lose, with `replicated(1)` and without.

To lose something on one machine, the replica is held up (SIGSTOP) while the producer goes on, then the primary is
killed. The same is done with both durabilities.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.redis_client import Client, connect
from streams import OutRecord, Producer, keys
from tests.chaos.streams.drive import Driving
from tests.chaos.streams.effects import Effect
from tests.chaos.streams.schedules import RAW, peaceful
from tests.redis_server import Server
from tests.redis_servers import Running, cluster
from tests.waiting import until

KEY = "K0"
CATALOG = peaceful(0).catalog
PARTITION = CATALOG.partition_of(KEY)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with cluster(tmp_path, replicas=1) as servers:
        yield servers


def owner(servers: Running, client: Client) -> tuple[Server, Server]:
    """The primary of the partition, and its replica."""
    node = client.get_node_from_key(keys.entries(RAW, PARTITION))  # type: ignore[union-attr]
    index = next(n for n, server in enumerate(servers.masters) if server.port == node.port)
    return servers.masters[index], servers.replicas[index]


async def fail_over(primary: Server, replica: Server) -> None:
    """Kill the primary; when the replica has taken over, start it again: as a replica."""
    await asyncio.to_thread(primary.kill)
    replica.resume()
    await until(lambda: replica.info()["role"] == "master", limit_s=20)
    await asyncio.to_thread(primary.start)


async def acknowledged_and_found(servers: Running, durability: str, held_up_s: float) -> tuple[list[int], list[int]]:
    """Publish records of 64 KiB one by one; hold the replica up, fail over, and publish on; returns their numbers."""
    client = connect(servers.url, socket_timeout_s=5.0)
    await client.ping()
    primary, replica = owner(servers, client)
    acknowledged: list[int] = []
    catalog = replace(peaceful(0), durability=durability).catalog

    async def publish() -> None:
        producer = Producer(client, catalog, max_wait_s=30.0)
        for number in range(1_000_000):
            payload = b"%s|%d||" % (KEY.encode(), number) + bytes(65536)
            await producer.send_many([OutRecord(RAW, KEY, payload, event_id=str(number))])
            acknowledged.append(number)

    publishing = asyncio.create_task(publish())
    try:
        await until(lambda: len(acknowledged) > 100)
        if held_up_s:
            replica.pause()
            await asyncio.sleep(held_up_s)
        await fail_over(primary, replica)
        before = len(acknowledged)
        await until(lambda: len(acknowledged) > before + 50, limit_s=40)
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        entries = await client.xrange(keys.entries(RAW, PARTITION))
        await client.aclose()
    return acknowledged, [Effect.of(fields[keys.PAYLOAD]).number for _, fields in entries]


HELD_UP_S = [0.0, 0.8]


@pytest.mark.parametrize("held_up_s", HELD_UP_S)
async def test_with_replicated_1_a_failover_loses_and_repeats_nothing(running: Running, held_up_s: float) -> None:
    acknowledged, found = await acknowledged_and_found(running, "replicated(1)", held_up_s)
    print(f"replicated(1), replica {held_up_s:g} s behind: 0 of {len(acknowledged)} acknowledged records lost")
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1  # the one under way


@pytest.mark.parametrize("held_up_s", HELD_UP_S)
async def test_without_it_what_the_replica_has_not_yet_is_lost(running: Running, held_up_s: float) -> None:
    acknowledged, found = await acknowledged_and_found(running, "memory", held_up_s)
    lost = set(acknowledged) - set(found)
    print(f"memory, replica {held_up_s:g} s behind: {len(lost)} of {len(acknowledged)} acknowledged records lost")
    assert found == sorted(set(found)), "what is there is there once, and in order"
    assert bool(lost) or not held_up_s


async def test_crashes_and_a_failover_together_lose_and_repeat_nothing(running: Running) -> None:
    client = connect(running.url)
    await client.ping()
    primary, replica = owner(running, client)
    await client.aclose()
    control = next(server for server in running.masters if server is not primary)
    driving = Driving(
        *("--url", running.url, "--control-url", f"redis+cluster://{control.address}"),
        *("--seeds", "500-503", "--jobs", "1", "--records", "1600", "--durability", "replicated(1)"),
    )
    try:
        await until(lambda: int(str(primary.info()["total_commands_processed"])) > 2_000)
        assert driving.running
        await fail_over(primary, replica)
    finally:
        found = await driving.ended()
    assert not found.unsound
