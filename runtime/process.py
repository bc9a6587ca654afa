"""The life of a service process, the same for all: settings, logs, traces, metrics, serve, and a graceful end.

Exit codes (sysexits.h): 0 after SIGTERM or SIGINT; 78 when the configuration is at fault (a taken port, a setting that
does not parse), which the supervisor does not retry; 69 when Redis did not come; 1 for a bug.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import prometheus_client
import structlog
import uvloop
from pydantic import ValidationError

from runtime import logs, telemetry
from runtime.errors import PortInUseError, UnavailableError
from runtime.settings import MeshSettings

EX_UNAVAILABLE = 69
EX_CONFIG = 78

log = structlog.get_logger()


class Running(Protocol):
    """A service that is up."""

    @property
    def port(self) -> int:
        """Port it listens on."""

    async def stop(self) -> None:
        """NOT_SERVING, stop reading, drain, close Redis: in this order."""


S = TypeVar("S", bound=MeshSettings)


def vital(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a task without which the process would only look alive.

    When it fails, the process ends with code 1, for the supervisor to start it anew.
    """

    def on_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical(f"the {name} failed: ending", exc_info=error)
            raise SystemExit(1)  # out of a callback it ends the event loop

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(on_end)
    return task


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended.

    Once may not be enough: `asyncio.wait_for` of Python 3.11, within which redis-py sends, loses a cancellation that
    comes at the same moment as the answer (gh-86296, mended in 3.12).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)


def required_redis_url(settings: MeshSettings, service: str) -> str:
    """URL of the Redis that a service stands on. Raises UnavailableError (reason REDIS_NOT_CONFIGURED)."""
    if settings.redis_url is None:
        raise UnavailableError(
            f"{service} needs Redis: set QUANTMESH_REDIS_URL, or start the mesh with `quantmesh up`",
            reason="REDIS_NOT_CONFIGURED",
        )
    return settings.redis_url


def load_settings(kind: type[S]) -> S:
    """Read the environment; a bad value ends the process with a line that names the variable."""
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            info = kind.model_fields.get(field)
            alias = info.validation_alias if info is not None and isinstance(info.validation_alias, str) else None
            variable = alias or f"{kind.model_config.get('env_prefix', '')}{field}".upper()
            sys.stderr.write(f"setting {variable}: {problem['msg']} (it is {problem.get('input')!r})\n")
        sys.exit(EX_CONFIG)


def run(
    service: str,
    settings_kind: type[S],
    build: Callable[[S], Coroutine[Any, Any, Running]],
    *,
    metrics_port: Callable[[S], int],
    metrics_setting: str,
) -> None:
    """Run a service until SIGTERM or SIGINT, then stop it gracefully. Never returns: exits the process."""
    settings = load_settings(settings_kind)
    logs.configure(service, settings)
    provider = telemetry.configure(service)
    code = 0
    try:
        try:
            prometheus_client.start_http_server(metrics_port(settings), settings.host)
        except OSError as error:
            raise PortInUseError(settings.host, metrics_port(settings), metrics_setting) from error
        uvloop.run(_serve(service, settings, build))
    except PortInUseError as error:
        log.error(error.message)
        code = EX_CONFIG
    except UnavailableError as error:
        log.error(error.message)
        code = EX_UNAVAILABLE
    finally:
        provider.shutdown()
    sys.exit(code)


async def _serve(service: str, settings: S, build: Callable[[S], Coroutine[Any, Any, Running]]) -> None:
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    building = asyncio.create_task(build(settings))
    waiting = asyncio.create_task(told_to_end.wait())
    await asyncio.wait({building, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not building.done():  # told to end while still waiting for Redis, say
        await ended(building)
        return
    running = building.result()
    log.info("serving", port=running.port)
    await waiting
    log.info("stopping")
    await running.stop()
    log.info("stopped")
