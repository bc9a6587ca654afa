"""`quantmesh up`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import typer

from runtime import logs
from runtime.cli import places
from runtime.cli.output import EX_FAILED, fail, show, table
from runtime.errors import ConfigurationError, QuantmeshError, UnavailableError
from runtime.process import EX_CONFIG, EX_UNAVAILABLE
from runtime.redis_client import without_password
from runtime.settings import MeshSettings
from runtime.supervisor import Mesh

_READY_S = 60.0


def run(replicas: int | None, as_json: bool) -> None:
    """Run the mesh until SIGINT or SIGTERM; a second one kills everything at once."""
    settings = places.read_settings(as_json)
    if replicas is not None:
        settings = settings.model_copy(update={"replicas": replicas})
    logs.configure("supervisor", settings)
    try:
        asyncio.run(_up(settings, as_json))
    except QuantmeshError as error:
        fail(as_json, "", error.message, error.reason, exit_code=_exit_code(error))


def _exit_code(error: QuantmeshError) -> int:
    if isinstance(error, ConfigurationError) or error.reason == "MESH_CONFIGURATION":
        return EX_CONFIG
    return EX_UNAVAILABLE if isinstance(error, UnavailableError) else EX_FAILED


async def _up(settings: MeshSettings, as_json: bool) -> None:
    mesh = Mesh(settings)
    told_to_stop = asyncio.Event()

    def on_signal() -> None:
        if told_to_stop.is_set():
            mesh.kill()
            return
        told_to_stop.set()
        typer.echo("stopping; once more to kill everything at once", err=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    async with AsyncExitStack() as stack:
        await _unless(told_to_stop, stack.enter_async_context(mesh))  # it may wait for Redis
        if told_to_stop.is_set():
            return
        typer.echo(f"starting; logs in {mesh.logs_dir}", err=True)
        await _unless(told_to_stop, mesh.ready(_READY_S))
        if not told_to_stop.is_set():
            _show(mesh, as_json)
        await _unless(told_to_stop, mesh.watch())


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
    """Do the work, or give it up when `stop` is set. Raises what the work raises."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    both: set[asyncio.Future[Any]] = {working, stopping}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
        return
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def _show(mesh: Mesh, as_json: bool) -> None:
    addresses = mesh.addresses
    metrics = addresses.metrics
    rows = [
        *((name, address, metrics[name], mesh.pid(name)) for name, address in addresses.listeners),
        ("redis", without_password(mesh.redis_url), None, mesh.pid("redis") if "redis" in mesh.names else None),
    ]
    data = {
        "gateway": addresses.gateway,
        "feature": addresses.feature,
        "inference": addresses.inference,
        "replicas": dict(addresses.replicas),
        "mlops": addresses.mlops,
        "metrics": dict(metrics),
        "redis_url": without_password(mesh.redis_url),
        "pids": {name: mesh.pid(name) for name in mesh.names},
        "logs_dir": str(mesh.logs_dir),
    }
    where = table("The mesh is up", ("process", "address", "metrics", "pid"), rows)
    show(as_json, data, where, f"REST docs: {addresses.gateway}/docs   Stop: Ctrl-C   State: quantmesh status")
