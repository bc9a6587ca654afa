"""How every process connects to Redis, and how it waits for one that is not there yet.

Whatever the URL says (one server, Sentinels, a cluster), the client is used alike, within the rules of a cluster: the
keys of one command or script share a hash tag. Where a call must know the difference, it is here.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import structlog
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff

from runtime.errors import ConfigurationError, UnavailableError
from runtime.redis_cluster import ClusterClient
from runtime.redis_connections import MasterPlain, MasterTls, NotNowError, Plain, Tls
from runtime.redis_topology import SETTING, Kind, parse, without_password

__all__ = [
    "AWAY",
    "UNREACHABLE",
    "Capabilities",
    "Client",
    "capabilities",
    "connect",
    "on_one_connection",
    "refuses",
    "wait_for_redis",
    "without_password",
]

log = structlog.get_logger()

Client: TypeAlias = Redis | RedisCluster
"""What `connect` returns."""

UNREACHABLE: tuple[type[Exception], ...] = (
    exceptions.ConnectionError,  # a server that loads its data, a master that no Sentinel knows, too
    exceptions.TimeoutError,
    # In the middle of a failover, or while a slot moves to another node:
    exceptions.ReadOnlyError,
    NotNowError,
    exceptions.ClusterError,
    exceptions.TryAgainError,
    exceptions.SlotNotCoveredError,
)
"""What a command raises when the server cannot be reached, or is not ready to answer yet."""

AWAY: tuple[type[Exception], ...] = (*UNREACHABLE, OSError)
"""The same for whoever opens connections too: a name that does not resolve is a bare OSError."""

_REFUSALS = ("OOM", "MISCONF", "READONLY", "NOREPLICAS", "CLUSTERDOWN", "BUSY")
"""First words of a server that answers, but takes no writes for now."""


def refuses(error: Exception) -> bool:
    """Whether an error says that the server takes no writes for now: its memory or disk is full, say."""
    return isinstance(error, exceptions.ResponseError) and str(error).startswith(_REFUSALS)


_DENIED = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_MAX_CONNECTIONS = 4096
"""To one server. Each partition that is read holds one; redis-py's own limit is 100."""

_REDIRECTED = (exceptions.AskError, exceptions.TryAgainError, exceptions.ConnectionError, exceptions.TimeoutError)
_REDIRECTIONS = 3


def connect(url: str, *, socket_timeout_s: float | None = 5.0) -> Client:
    """Make a client; nothing is sent yet. Replies are bytes. Raises ConfigurationError (reason REDIS_URL_INVALID).

    A call that fails to reach the server is tried twice more within half a second: every write of this project is
    safe to repeat, because its script recognises what it has done already.
    """
    topology = parse(url)
    by_tls = topology.tls is not None
    sockets: dict[str, Any] = {
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": 2.0,
        **(topology.tls or {}),
    }
    options: dict[str, Any] = {
        **sockets,
        **topology.credentials,
        "decode_responses": False,
        "retry": Retry(ExponentialWithJitterBackoff(cap=0.25, base=0.05), 2),
        "retry_on_error": [exceptions.ConnectionError, exceptions.TimeoutError],
        "health_check_interval": 0,
        "max_connections": _MAX_CONNECTIONS,
    }
    if topology.kind is Kind.CLUSTER:
        return ClusterClient(topology, {**options, "ssl": by_tls})
    options["db"] = topology.database
    if topology.kind is Kind.SENTINEL:
        asked = {**sockets, **topology.sentinel_credentials, "ssl": by_tls, "retry": Retry(NoBackoff(), 0)}
        sentinel = cast(Any, Sentinel)(topology.nodes, sentinel_kwargs=asked)
        options["connection_class"] = MasterTls if by_tls else MasterPlain
        return cast(Redis, sentinel.master_for(topology.service, redis_class=_Master, **options))
    host, port = topology.nodes[0]
    options["connection_class"] = Tls if by_tls else Plain
    return Redis.from_pool(ConnectionPool(host=host, port=port, **options))


async def wait_for_redis(client: Client, url: str, wait_s: float) -> None:
    """Return when Redis answers.

    Raises UnavailableError (reason REDIS_UNAVAILABLE) when it has not after `wait_s` seconds, and at once
    ConfigurationError when it refuses the user (reason REDIS_ACCESS_DENIED) or is not what the URL says (reason
    REDIS_URL_INVALID).
    """
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            await _require_mode(client)
            return
        except _DENIED as error:
            raise ConfigurationError(
                f"Redis at {without_password(url)} refuses the user of {SETTING}: {error}",
                reason="REDIS_ACCESS_DENIED",
                metadata={"setting": SETTING},
            ) from error
        except (exceptions.RedisError, OSError) as error:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise UnavailableError(
                    f"Redis at {without_password(url)} did not answer within {wait_s:g} s ({error}): start it, "
                    f"or set {SETTING}; QUANTMESH_REDIS_WAIT_S sets how long to wait",
                    reason="REDIS_UNAVAILABLE",
                ) from error
            if not told:
                log.warning("waiting for Redis", url=without_password(url), limit_s=wait_s, error=str(error))
                told = True
            await asyncio.sleep(min(0.2, left_s))


async def _require_mode(client: Client) -> None:
    if isinstance(client, RedisCluster):
        await client.ping()
        return
    # A node of a cluster, or a Sentinel, would answer a PING and refuse all else.
    server = await client.info("server")
    mode = server.get("redis_mode") or server.get("server_mode")  # Valkey's name for it
    if mode in ("cluster", "sentinel"):
        raise ConfigurationError(
            f"the server is a {'node of a cluster' if mode == 'cluster' else mode}: {SETTING} must begin with "
            f"redis+{mode}:// (or rediss+{mode}://)",
            reason="REDIS_URL_INVALID",
            metadata={"setting": SETTING},
        )


async def on_one_connection(client: Client, key: str, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Run commands, one after the other, on one connection to the server that has `key`; WAIT and WAITAOF need it.

    Returns their answers, with errors of the server among them as values. May run them again, as `connect` says.
    """
    for attempt in range(1, _REDIRECTIONS + 1):
        if isinstance(client, RedisCluster):
            await client.initialize()
            target = {"target_nodes": client.get_node_from_key(key)}
        else:
            target = {}
        pipeline: Any = client.pipeline(transaction=False)
        async with pipeline:
            for command in commands:
                pipeline.execute_command(*command, **target)
            if not target:
                return cast(list[Any], await pipeline.execute(raise_on_error=False))
            # Redirected by redis-py, the first command would go elsewhere and the others stay.
            answers = cast(list[Any], await pipeline.execute(raise_on_error=False, allow_redirections=False))
        failed = next((answer for answer in answers if isinstance(answer, _REDIRECTED)), None)
        if failed is None:
            return answers
        if attempt < _REDIRECTIONS:
            await client.exists(key)  # a command of its own makes the client look where the key is now
    raise exceptions.ConnectionError(f"the slot of {key} is on its way to another node: {failed}") from failed


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the servers of a client can do; on a cluster, what all of its primaries can."""

    product: str
    """redis or valkey, as the server calls itself."""
    version: tuple[int, ...]
    """Of the product; the oldest of a cluster."""
    entries_read: bool
    """XGROUP SETID takes ENTRIESREAD."""
    wait: bool
    waitaof: bool
    functions: bool


_known: WeakKeyDictionary[Client, Capabilities] = WeakKeyDictionary()


async def capabilities(client: Client) -> Capabilities:
    """Ask the servers, once for each client, what they can do beyond Redis 6.2."""
    found = _known.get(client)
    if found is None:
        found = _known[client] = await _ask(client)
    return found


async def _ask(client: Client) -> Capabilities:
    targets: list[dict[str, Any]] = [{}]
    if isinstance(client, RedisCluster):
        await client.initialize()
        targets = [{"target_nodes": node} for node in client.get_primaries()]
    each = []
    for target in targets:
        server: dict[str, Any] = await cast(Any, client).info("server", **target)
        commands = await cast(Any, client).execute_command("COMMAND INFO", "WAIT", "WAITAOF", "FCALL", **target)
        each.append((server, [bool(command) for command in commands]))
    # Valkey calls itself Redis 7.2 too: the version whose commands it has.
    products = {"valkey" if "valkey_version" in server else "redis" for server, _ in each}
    wait, waitaof, functions = (all(flags) for flags in zip(*(commands for _, commands in each), strict=True))
    return Capabilities(
        product=products.pop() if len(products) == 1 else "mixed",
        version=min(_version(server.get("valkey_version", server["redis_version"])) for server, _ in each),
        entries_read=min(_version(server["redis_version"]) for server, _ in each) >= (7,),
        wait=wait,
        waitaof=waitaof,
        functions=functions,
    )


def _version(text: object) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(text))[:3])


class _Master(Redis):
    """The master that Sentinels name."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        await cast(Any, self.connection_pool).sentinel_manager.aclose()
