"""`quantmesh envoy-config`."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from urllib.parse import urlsplit

import typer

from runtime.cli import places
from runtime.envoy.balancer import Balancer, configuration


def run(replicas: list[str], listen: str, admin: Path, metrics_port: int | None) -> None:
    """Print the configuration; limits and times are those of the settings."""
    settings = places.read_settings(as_json=False)
    host, port = _address(listen, "--listen")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise typer.BadParameter(f"--listen {listen}: Envoy listens on an IP address, such as 0.0.0.0") from None
    balancer = Balancer(
        host=host,
        port=port,
        replicas=[_address(replica, "REPLICA") for replica in replicas],
        admin=admin,
        metrics_port=metrics_port,
        try_s=settings.replica_try_s,
        max_message_bytes=settings.max_message_bytes,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
    )
    typer.echo(json.dumps(configuration(balancer), indent=2))


def _address(text: str, what: str) -> tuple[str, int]:
    try:
        host, port = urlsplit(f"//{text}").hostname, urlsplit(f"//{text}").port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise typer.BadParameter(f"{what} {text}: must be HOST:PORT")
    return host, port
