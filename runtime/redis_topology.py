"""The Redis URL: which servers there are, how they stand together, and how to talk to them.

One server, a master that Sentinels watch, and a Redis Cluster, each in the clear or by TLS; docs/operations/redis.md
has the forms. A URL may hold a password: no error message repeats any part of it that could be one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

from runtime.errors import ConfigurationError

SETTING = "QUANTMESH_REDIS_URL"

_FORMS = (
    "redis://[user:password@]host[:port][/database], redis+sentinel://[user:password@]host[:port],.../service[?db=0] "
    "or redis+cluster://[user:password@]host[:port],..., each with rediss in place of redis for TLS"
)
_URL = re.compile(r"(?P<tls>rediss|redis)(?:\+(?P<kind>sentinel|cluster))?://(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_NODE = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>\d{1,5}))?")
_SERVER_PORT, _SENTINEL_PORT = 6379, 26379
_SECRET = "sentinel_password"
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = (*_FILES, "ssl_check_hostname", "ssl_cert_reqs")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Kind(Enum):
    """How the servers stand together."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Topology:
    """What a URL says. `nodes` are the server, the Sentinels, or the nodes of the cluster that are asked first."""

    kind: Kind
    nodes: tuple[tuple[str, int], ...]
    service: str = ""
    database: int = 0
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """`username` and `password` for the servers, where there are any."""
    sentinel_credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The same for the Sentinels."""
    tls: Mapping[str, str | bool] | None = None
    """redis-py's `ssl_*` options; None: no TLS."""


def parse(url: str, setting: str = SETTING) -> Topology:
    """Read a URL. Raises ConfigurationError (reason REDIS_URL_INVALID), which names the setting."""
    try:
        return _parse(url)
    except ValueError as error:
        raise ConfigurationError(
            f"{setting} is not a Redis URL: {error}. It takes {_FORMS}",
            reason="REDIS_URL_INVALID",
            metadata={"setting": setting},
        ) from None  # the cause would only repeat it


def without_password(url: str) -> str:
    """The URL as it may be logged, whatever is wrong with it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.rpartition("@")[2]
    # Up to the last @: a password that was not percent-encoded may hold any character, # and ? too.
    address, question, query = rest.rpartition("@")[2].partition("?")
    shown = urlencode([(name, value) for name, value in parse_qsl(query) if name != _SECRET], safe="/")
    return f"{scheme}://{address}{question if shown else ''}{shown}"


def _parse(url: str) -> Topology:
    found = _URL.fullmatch(url.strip())
    if found is None:
        raise ValueError("it begins with none of the schemes")
    kind = Kind(found["kind"].lower()) if found["kind"] else Kind.SERVER
    rest, _, query = found["rest"].partition("?")
    authority, _, path = rest.partition("/")
    # First of all, for else what follows is a piece of a password.
    if "#" in found["rest"] or "@" in path or "@" in query:
        raise ValueError("the characters / ? # @ within a name or password must be written %2F %3F %23 %40")
    userinfo, _, hosts = authority.rpartition("@")
    tls = found["tls"].lower() == "rediss"
    parameters = _parameters(query, kind, tls)
    database = parameters.pop("db", "")
    service = ""
    if kind is Kind.SENTINEL:
        service = unquote(path)
        if not service or "/" in service:
            raise ValueError("the path must be the name of the service that the Sentinels watch, as in /mymaster")
    elif path:
        if database:
            raise ValueError("the database stands in the path and in db: leave one out")
        database = path
    return Topology(
        kind=kind,
        nodes=_nodes(hosts, kind),
        service=service,
        database=_database(database, kind),
        credentials=_credentials(*map(unquote, userinfo.partition(":")[::2])),
        sentinel_credentials=_credentials(
            parameters.pop("sentinel_username", ""), parameters.pop("sentinel_password", "")
        ),
        tls=_tls(parameters) if tls else None,
    )


def _nodes(hosts: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    nodes = []
    for text in hosts.split(","):
        match = _NODE.fullmatch(text)
        if match is None:
            raise ValueError("a host must read host:port, or [address]:port for IPv6" if text else "a host is missing")
        port = int(match["port"] or (_SENTINEL_PORT if kind is Kind.SENTINEL else _SERVER_PORT))
        if not 0 < port < 65536:
            raise ValueError(f"there is no port {port}")
        nodes.append((match["ipv6"] or unquote(match["host"]), port))
    if kind is Kind.SERVER and len(nodes) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return tuple(nodes)


def _database(text: str, kind: Kind) -> int:
    if text and not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise ValueError("the database must be a number")
    database = int(text or "0")
    if database and kind is Kind.CLUSTER:
        raise ValueError("a Redis Cluster has database 0 only")
    return database


def _credentials(username: str, password: str) -> dict[str, str]:
    if username and not password:
        raise ValueError("a user name needs a password")
    return {name: value for name, value in (("username", username), ("password", password)) if value}


def _parameters(query: str, kind: Kind, tls: bool) -> dict[str, str]:
    known = ["db"] if kind is not Kind.CLUSTER else []
    if kind is Kind.SENTINEL:
        known += ["sentinel_username", _SECRET]
    if tls:
        known += _TLS
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if name in _TLS and not tls:
            raise ValueError(f"{name} needs TLS: write rediss")
        if name not in known:
            raise ValueError(f"this kind of URL has no parameter {quote(name)!r}; it has {', '.join(known) or 'none'}")
        if name in parameters:
            raise ValueError(f"{name} comes twice")
        if not value:
            raise ValueError(f"{name} is empty")
        parameters[name] = value
    return parameters


def _tls(parameters: Mapping[str, str]) -> dict[str, str | bool]:
    options: dict[str, str | bool] = dict(parameters)
    for name in _FILES:
        if name in parameters and not Path(parameters[name]).is_file():
            raise ValueError(f"{name}: there is no file {parameters[name]}")
    if ("ssl_certfile" in parameters) != ("ssl_keyfile" in parameters):
        raise ValueError("ssl_certfile and ssl_keyfile go together")
    if parameters.get("ssl_cert_reqs", "required") not in ("required", "optional", "none"):
        raise ValueError("ssl_cert_reqs must be required, optional or none")
    checked = parameters.get("ssl_check_hostname")
    if checked is not None:
        if checked.lower() not in _BOOLEANS:
            raise ValueError("ssl_check_hostname must be true or false")
        options["ssl_check_hostname"] = _BOOLEANS[checked.lower()]
    elif parameters.get("ssl_cert_reqs") == "none":
        options["ssl_check_hostname"] = False  # a name that nobody vouches for says nothing
    return options
