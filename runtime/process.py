"""The life of a service process, the same for all: settings, logs, traces, metrics, serve, and a graceful end.

Exit codes (sysexits.h): 0 after SIGTERM or SIGINT; 78 when the configuration is at fault (a taken port, a setting that
does not parse), which the supervisor does not retry; 69 when Redis did not come; 1 for a bug.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import prometheus_client
import structlog
import uvloop

from runtime import environment, logs, telemetry
from runtime.errors import ConfigurationError, UnavailableError
from runtime.ports import refused
from runtime.settings import MeshSettings

EX_UNAVAILABLE = 69
EX_CONFIG = 78

_STOP_MARGIN_S = 3.0
"""What a service with a failed part may take to stop, beyond the grace of its RPCs."""

log = structlog.get_logger()


class Running(Protocol):
    """A service that is up."""

    @property
    def port(self) -> int:
        """Port it listens on."""

    async def stop(self) -> None:
        """NOT_SERVING, stop reading, drain, close Redis: in this order."""


S = TypeVar("S", bound=MeshSettings)


class _End:
    """When a process is to end, and with which exit code."""

    def __init__(self, told: asyncio.Event) -> None:
        self.told = told
        self.code = 0


_end: ContextVar[_End] = ContextVar("end")


def _fail(code: int) -> None:
    end = _end.get(None)
    if end is None:  # outside `run`: out of a task, it ends the event loop
        raise SystemExit(code)
    end.code = end.code or code
    end.told.set()


def vital(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a task without which the process would only look alive.

    When it fails, that is logged and the process ends, in order as far as it can: with code 78 for a fault of the
    configuration, else with code 1, for the supervisor to start it anew. The task itself does not fail.
    """

    async def run_it() -> None:
        try:
            await work
        except ConfigurationError as error:
            log.error(error.message)
            _fail(EX_CONFIG)
        except Exception as error:
            log.critical(f"the {name} failed: ending", exc_info=error)
            _fail(1)

    task = asyncio.create_task(run_it(), name=name)
    task.add_done_callback(lambda _: work.close())  # one that was cancelled before its first step was never begun
    return task


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until all have ended, even when the caller is cancelled meanwhile, which is raised afterwards.

    Once may not be enough: `asyncio.wait_for` of Python 3.11, within which redis-py sends, loses a cancellation that
    comes at the same moment as the answer (gh-86296, mended in 3.12).
    """
    cancelled = False
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=0.05)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


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
    for said in environment.unread(os.environ):
        sys.stderr.write(f"warning: {said}\n")
    try:
        return environment.read(kind)
    except ConfigurationError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(EX_CONFIG)


@dataclass(frozen=True, slots=True)
class Service(Generic[S]):
    """What a service process is made of."""

    name: str
    settings: type[S]
    build: Callable[[S], Coroutine[Any, Any, Running]]
    metrics_port: Callable[[S], int]
    metrics_setting: str


def run(service: Service[S]) -> None:
    """Run a service until SIGTERM or SIGINT, then stop it gracefully. Never returns: exits the process."""
    settings = load_settings(service.settings)
    with equipped(service, settings) as outcome:
        start_metrics(service, settings)
        outcome.code = uvloop.run(_until_signalled(service, settings))
    sys.exit(outcome.code)


class Outcome:
    """With which exit code a process ends."""

    code = 0


@contextmanager
def equipped(service: Service[S], settings: S) -> Iterator[Outcome]:
    """Logs and traces for what runs within; an error that has a meaning for the supervisor is logged and becomes its
    exit code.
    """
    logs.configure(service.name, settings)
    provider = telemetry.configure(service.name)
    outcome = Outcome()
    try:
        yield outcome
    except ConfigurationError as error:
        log.error(error.message)
        outcome.code = EX_CONFIG
    except UnavailableError as error:
        log.error(error.message)
        outcome.code = EX_UNAVAILABLE
    finally:
        provider.shutdown()


def start_metrics(service: Service[S], settings: S) -> None:
    """Serve Prometheus. Raises ConfigurationError when the port cannot be had."""
    port = service.metrics_port(settings)
    try:
        prometheus_client.start_http_server(port, settings.host)
    except OSError as error:
        raise refused(settings.host, port, service.metrics_setting, error) from error


async def _until_signalled(service: Service[S], settings: S) -> int:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return await serve(service, settings, told)


async def serve(
    service: Service[S],
    settings: S,
    told: asyncio.Event,
    on_serving: Callable[[Running], None] = lambda _: None,
    before_stop: Callable[[Running], Awaitable[None]] | None = None,
) -> int:
    """Serve until told to end, or until a vital part fails. Returns the exit code.

    `on_serving` is called once the service is up, `before_stop` before it is stopped.
    """
    end = _End(told)
    _end.set(end)
    building = asyncio.create_task(service.build(settings))
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({building, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not building.done():  # told to end while still waiting for Redis, say
        await ended(building)
        return end.code
    running = building.result()
    _spare_calls_the_collector()
    on_serving(running)
    log.info("serving", port=running.port)
    await waiting
    log.info("stopping")
    if before_stop is not None:
        await before_stop(running)
    if end.code:
        await _stop_what_can(running, settings.drain_grace_s + _STOP_MARGIN_S)
    else:
        await running.stop()
    log.info("stopped")
    return end.code


def _spare_calls_the_collector() -> None:
    """What is there when a service is up stays; left to itself, the collector looks through all of it again and again
    while calls wait: 30 ms each time for a replica. A call that goes well leaves no cycle, and those in flight are no
    reason to look for some.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])


async def _stop_what_can(running: Running, within_s: float) -> None:
    """Stop a service of which a part has failed: what that part has left behind may be in the way."""
    try:
        async with asyncio.timeout(within_s):
            await running.stop()
    except Exception as error:
        log.warning("stopped only in part", exc_info=error)
