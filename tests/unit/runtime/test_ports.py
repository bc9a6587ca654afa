"""What it means that a port cannot be had, and which setting to change."""

from __future__ import annotations

import errno
import socket

import pytest

from runtime.errors import ConfigurationError, PortInUseError
from runtime.ports import free_port, refused, require_free, resolved


def test_a_free_port_is_free() -> None:
    require_free("127.0.0.1", free_port(), "X")


def test_a_taken_port_names_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUseError, match="set X to a free port"):
        require_free("127.0.0.1", taken.getsockname()[1], "X")


@pytest.mark.parametrize(
    ("error", "reason", "said"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "PORT_IN_USE", "port 80 on h is taken by another process"),
        (PermissionError(errno.EACCES, "no"), "PORT_DENIED", "may not listen on port 80 of h: set X to 1024 or more"),
        (OSError(errno.EADDRNOTAVAIL, "no"), "HOST_UNUSABLE", "QUANTMESH_HOST: h is not an address of this machine"),
        (socket.gaierror(-2, "unknown"), "HOST_UNUSABLE", "QUANTMESH_HOST: 'h' is not the name of a host (unknown)"),
        (OSError(errno.EAFNOSUPPORT, "no IPv6"), "HOST_UNUSABLE", "QUANTMESH_HOST: h cannot be listened on"),
    ],
)
def test_each_refusal_has_its_words(error: OSError, reason: str, said: str) -> None:
    made = refused("h", 80, "X", error)
    assert made.reason == reason
    assert said in made.message


def test_an_address_of_another_machine_is_told_from_a_taken_port() -> None:
    with pytest.raises(ConfigurationError, match="QUANTMESH_HOST") as caught:
        require_free("192.0.2.1", 0, "X")
    assert not isinstance(caught.value, PortInUseError)


def test_a_name_is_resolved_as_it_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [resolved(host) for host in ("127.0.0.1", "localhost", "::1")] == ["127.0.0.1", "127.0.0.1", "::1"]

    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigurationError, match="QUANTMESH_HOST: 'nobody' is not the name of a host"):
        resolved("nobody")
