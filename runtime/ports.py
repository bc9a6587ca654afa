"""Free TCP ports: find one, or say which setting to change when a wanted one is taken."""

from __future__ import annotations

import socket

from runtime.errors import PortInUseError


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        bound: int = probe.getsockname()[1]
        return bound


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now. Nothing reserves it: use it soon."""
    return _bind(host, 0)


def require_free(host: str, port: int, setting: str) -> None:
    """Raise PortInUseError, which names `setting`, unless the port can be listened on."""
    try:
        _bind(host, port)
    except OSError as error:
        raise PortInUseError(host, port, setting) from error


def dialled(host: str) -> str:
    """The address on which a client of this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address(host: str, port: int) -> str:
    """`host:port` as URLs and gRPC have it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
