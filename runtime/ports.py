"""Free TCP ports: find one, or say which setting to change when a wanted one cannot be had."""

from __future__ import annotations

import errno
import random
import socket

from runtime.errors import ConfigurationError, PortInUseError

_BELOW_CONNECTIONS = range(10_000, 32_768)
_TRIES = 1_000
_RANDOM = random.SystemRandom()  # two processes that ask at once must not be told the same


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(host: str, port: int) -> int:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        bound: int = probe.getsockname()[1]
        return bound


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now. Nothing reserves it: use it soon. Raises what `require_free` does.

    It lies below the ports that systems give to connections, one of which could take it meanwhile.
    """
    for _ in range(_TRIES):
        try:
            return _bind(host, _RANDOM.choice(_BELOW_CONNECTIONS))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise refused(host, 0, "", error) from error
    raise ConfigurationError(f"no free port found on {host}", reason="NO_FREE_PORTS")


def require_free(host: str, port: int, setting: str) -> None:
    """Raise unless the port can be listened on: PortInUseError, which names `setting`, or what else `refused` makes."""
    try:
        _bind(host, port)
    except OSError as error:
        raise refused(host, port, setting, error) from error


def refused(host: str, port: int, setting: str, error: OSError) -> ConfigurationError:
    """What the refusal to listen means, and which setting to change: that of the port, or QUANTMESH_HOST."""
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(host, port, setting)
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"this user may not listen on port {port} of {host}: set {setting} to 1024 or more",
            reason="PORT_DENIED",
            metadata={"port": str(port), "setting": setting},
        )
    if isinstance(error, socket.gaierror):
        what = f"{host!r} is not the name of a host ({error.strerror})"
    elif error.errno == errno.EADDRNOTAVAIL:
        what = f"{host} is not an address of this machine"
    else:
        what = f"{host} cannot be listened on ({error})"
    return ConfigurationError(
        f"QUANTMESH_HOST: {what}; 127.0.0.1 serves this machine only, 0.0.0.0 all networks",
        reason="HOST_UNUSABLE",
        metadata={"setting": "QUANTMESH_HOST"},
    )


def resolved(host: str) -> str:
    """The IP address of a host. Raises what `refused` makes of a name that is none."""
    try:
        found = socket.getaddrinfo(host, None, _family(host), socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise refused(host, 0, "", error) from error
    return str(found[0][4][0])


def dialled(host: str) -> str:
    """The address on which a client of this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address(host: str, port: int) -> str:
    """`host:port` as URLs and gRPC have it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
