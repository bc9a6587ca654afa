"""A service within Envoy: the ASGI application that brings it up, answers its hot calls, and ends it in order.

Envoy opens the public port once the application has started, so that to be reachable is to be ready.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import structlog
from prometheus_client import REGISTRY

from runtime.envoy.admin import start_draining
from runtime.envoy.host import ADMIN, FOLDER
from runtime.envoy.hot_app import Event, HotApp, HotMethod, Receive, Send
from runtime.envoy.keeper import EXIT_FILE, STOP_FD
from runtime.envoy.limit_metrics import LimitMetrics
from runtime.process import Outcome, Running, Service, equipped, load_settings, serve, start_metrics
from runtime.settings import MeshSettings

log = structlog.get_logger()

S = TypeVar("S", bound=MeshSettings)


class HotRunning(Running, Protocol):
    """A service that is up, and has calls that Envoy answers with it."""

    @property
    def hot_methods(self) -> Sequence[HotMethod]:
        """The calls."""

    async def not_serving(self) -> None:
        """Tell every health watcher that this server is going away."""


class Guest(Generic[S]):
    """The ASGI application of one service."""

    def __init__(self, service: Service[S]) -> None:
        """`service.build` gives a `HotRunning`."""
        self._service = service
        self._app: HotApp
        self._drain_grace_s = 0.0
        self._told = asyncio.Event()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """One call of a client, or the life of the application."""
        if scope["type"] == "http":
            await self._app(scope, receive, send)
        else:
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Any) -> None:
        await receive()  # lifespan.startup
        settings = load_settings(self._service.settings)
        self._drain_grace_s = settings.drain_grace_s
        asyncio.get_running_loop().add_reader(int(os.environ[STOP_FD]), self._stop)
        up = asyncio.Event()
        serving = asyncio.create_task(self._serve(settings, up))
        waiting = asyncio.create_task(up.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            # The exit code is written and the reason is logged: Envoy would only say at length that it cannot start.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        await send({"type": "lifespan.startup.complete"})
        ending = asyncio.ensure_future(receive())  # lifespan.shutdown: Envoy was told to end
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            os.kill(os.getpid(), signal.SIGTERM)  # ends Envoy
        self._told.set()
        await asyncio.wait({serving, ending})
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, settings: S, up: asyncio.Event) -> None:
        def on_serving(running: Running) -> None:
            self._app = HotApp(cast(HotRunning, running).hot_methods)
            up.set()

        outcome = Outcome()
        outcome.code = 1  # unless it comes to an end by itself
        try:
            with ExitStack() as stack:
                outcome = stack.enter_context(equipped(self._service, settings))
                start_metrics(self._service, settings)
                REGISTRY.register(LimitMetrics(os.environ[ADMIN]))
                outcome.code = await serve(self._service, settings, self._told, on_serving, self._drain)
        except Exception as error:
            outcome.code = 1
            log.critical("the service failed", exc_info=error)
        finally:
            (Path(os.environ[FOLDER]) / EXIT_FILE).write_text(str(outcome.code))

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(int(os.environ[STOP_FD]))
        self._told.set()

    async def _drain(self, running: Running) -> None:
        """NOT_SERVING, clients are told to connect elsewhere, and hot calls in flight are answered."""
        await cast(HotRunning, running).not_serving()
        try:
            await start_draining(os.environ[ADMIN])
        except OSError as error:
            log.warning("Envoy does not drain", error=str(error))
        await self._app.drain(self._drain_grace_s)
