"""The Redis of a mesh: the embedded one kept up (same directory, same port), or another's waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from runtime.backoff import Backoff
from runtime.embedded_redis import EmbeddedRedis
from runtime.errors import QuantmeshError
from runtime.redis_client import connect, wait_for_redis

log = structlog.get_logger()

_LOOK_EVERY_S = 0.1


async def require_redis(url: str, wait_s: float) -> None:
    """Wait for a server that is not ours to keep. Raises what `wait_for_redis` does."""
    client = connect(url)
    try:
        await wait_for_redis(client, url, wait_s)
    finally:
        await client.aclose()


class RedisKeeper:
    """An embedded server with a life of its own, off the event loop, because starting it blocks."""

    def __init__(self, directory: Path, on_change: Callable[[], None]) -> None:
        """`on_change` is called after each restart."""
        self.restarts = 0
        self._server = EmbeddedRedis(directory)
        self._on_change = on_change
        # The server is tied to the thread that starts it, so that thread has to stay: one of our own, not the pool's.
        self._thread = ThreadPoolExecutor(1, "embedded-redis")

    @property
    def url(self) -> str:
        """URL for clients; valid once it was started."""
        return self._server.url

    @property
    def pid(self) -> int | None:
        """Process id; None while it is down."""
        process = self._server.process
        return process.pid if process is not None and process.poll() is None else None

    async def start(self) -> None:
        """Start the server. Raises what EmbeddedRedis.start does."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._server.start)

    async def run(self) -> None:
        """Watch it and start it again, until cancelled."""
        backoff = Backoff()
        started = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self.pid is not None:
                continue
            wait_s = backoff.wait_s(time.monotonic() - started)
            log.warning("process ended, restarting", process="redis", wait_s=wait_s)
            await asyncio.sleep(wait_s)
            try:
                await self.start()
            except QuantmeshError as error:
                log.error(error.message)
            started = time.monotonic()
            self.restarts += 1
            self._on_change()

    async def stop(self) -> None:
        """End the server, its data saved."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._server.stop)
        self._thread.shutdown(wait=False)

    def kill(self) -> None:
        """End it at once."""
        process = self._server.process
        if process is not None:
            process.kill()
