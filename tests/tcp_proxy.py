"""A TCP proxy before a Redis server that does what networks do: lose replies, cut connections, deliver late.

The worst case for exactly-once is a command that the server has executed and whose sender does not know it; the second
worst is one that is executed long after its sender has given up on it and sent another.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TypeAlias

HOST = "127.0.0.1"

Fault: TypeAlias = Literal["", "lose_reply", "cut_before", "cut_within", "late", "slow"]
"""What happens to one request:

lose_reply  the server executes it; its reply is dropped, and the connection cut
cut_before  the connection is cut; the server never hears of it
cut_within  the server gets half of it, and the connection is cut
late        the connection is cut; the server gets the request `late_s` afterwards
slow        request and reply are passed on, `slow_s` late
"""

Decide: TypeAlias = Callable[[bytes], Fault]
"""Chooses by a request's bytes, as they came in one piece."""


def at_random(seed: int, rate: float, faults: tuple[Fault, ...]) -> Decide:
    """Faults at a rate, on scripts only: whatever else a client sends changes nothing."""
    rng = random.Random(seed)

    def decide(request: bytes) -> Fault:
        return rng.choice(faults) if b"EVAL" in request and rng.random() < rate else ""

    return decide


def once(fault: Fault, when: bytes = b"EVAL") -> Decide:
    """One fault, on the first request that contains the bytes."""
    left = 1

    def decide(request: bytes) -> Fault:
        nonlocal left
        if left and when in request:
            left = 0
            return fault
        return ""

    return decide


class TcpProxy:
    """Up between `start` and `stop`. Its parts may be set from any thread."""

    def __init__(self, target_port: int, late_s: float = 0.3, slow_s: float = 0.05) -> None:
        self.port = 0
        self.decide: Decide = lambda _: ""
        self.counts: Counter[str] = Counter()
        """Fault → how often it happened."""
        self._target_port = target_port
        self._late_s = late_s
        self._slow_s = slow_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        self._thread.start()
        listening = asyncio.start_server(self._serve, HOST, 0, limit=64 * 1024 * 1024)
        self._listener = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.port = self._listener.sockets[0].getsockname()[1]

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut_all(self) -> None:
        """Cut every connection there is now."""
        asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result(10)

    async def _close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        await self._cut_all()

    async def _cut_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):  # whoever cuts it has no more to do here
            server_reader, server_writer = await asyncio.open_connection(HOST, self._target_port)
            dropping = asyncio.Event()
            replies = asyncio.create_task(self._replies(server_reader, writer, dropping))
            try:
                while not replies.done():
                    request = await reader.read(1024 * 1024)
                    if not request or not await self._pass(request, server_writer, writer, dropping, replies):
                        break
            finally:
                replies.cancel()
                for end in (server_writer, writer):
                    end.close()
                await asyncio.gather(replies, return_exceptions=True)

    async def _pass(
        self,
        request: bytes,
        server: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        dropping: asyncio.Event,
        replies: asyncio.Task[None],
    ) -> bool:
        """Hand a request on, or do to it what is decided; false when the connection is to be cut."""
        fault = self.decide(request)
        self.counts[fault or "passed"] += 1
        if fault == "cut_before":
            return False
        if fault == "cut_within":
            server.write(request[: len(request) // 2])
            await server.drain()
            return False
        if fault == "late":
            client.close()
            await asyncio.sleep(self._late_s)
        if fault == "slow":
            await asyncio.sleep(self._slow_s)
        if fault in ("late", "lose_reply"):
            dropping.set()
        server.write(request)
        await server.drain()
        if dropping.is_set():
            await asyncio.wait({replies}, timeout=5)  # until the server has answered
            return False
        return True

    async def _replies(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, dropping: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while reply := await server.read(1024 * 1024):
                if dropping.is_set():
                    return
                client.write(reply)
                await client.drain()
        client.close()


@contextmanager
def tcp_proxy(target_port: int, late_s: float = 0.3) -> Iterator[TcpProxy]:
    """A proxy that is up, in a thread of its own, and does no harm until its `decide` is set."""
    proxy = TcpProxy(target_port, late_s)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
