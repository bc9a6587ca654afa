"""Keeps the shadow process up while it is wanted, and the socket to it. Sends without waiting, or not at all."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import structlog

from inference_svc import metrics
from inference_svc.settings import InferenceSettings
from inference_svc.shadow.frames import Kind, Reader
from runtime.backoff import Backoff
from runtime.tethered import tethered

log = structlog.get_logger()

SETTINGS, SOCKET = "QM_SHADOW_SETTINGS", "QM_SHADOW_SOCKET"
"""Variables of the shadow process: the replica's settings as JSON, and its end of the socket."""

_END_S = 3.0
"""What it may take to write its last pairs."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 2.0, 60.0, 120.0

SILENT_S = 30.0
"""One that has said nothing for so long hangs, and is killed: it says something every quarter of a second, or whenever
it is given a processor."""

LOOK_S = 1.0


class _Socket(asyncio.Protocol):
    def __init__(self, on_frame: Callable[[Kind, bytes], None]) -> None:
        self._on_frame = on_frame
        self._reader = Reader()
        self.lost = asyncio.Event()
        self.heard_at = math.inf
        """When it said something last, by the event loop's clock; never before it has begun to."""

    def data_received(self, data: bytes) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        for kind, body in self._reader.feed(data):
            self._on_frame(kind, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


class Link:
    """The process and the socket. `run` runs until `stop` is called."""

    def __init__(
        self,
        settings: InferenceSettings,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        on_frame: Callable[[Kind, bytes], None],
    ) -> None:
        """`on_up` is called when the process can be sent to; `on_down` when it has ended, with the reason, which is
        empty when it was to end."""
        self._settings = settings
        self._on_up = on_up
        self._on_down = on_down
        self._on_frame = on_frame
        self._transport: asyncio.Transport | None = None
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._stopped = False

    @property
    def up(self) -> bool:
        """Whether there is somebody to send to."""
        return self._transport is not None

    def want(self, wanted: bool) -> None:
        """Start the process, or let it end."""
        if wanted and not self._stopped:
            self._unwanted.clear()
            self._wanted.set()
        else:
            self._wanted.clear()
            self._unwanted.set()

    def stop(self) -> None:
        """Make `run` end the process, and return."""
        self._stopped = True
        self.want(False)
        self._wanted.set()

    def send(self, frame: bytes, limit_bytes: float = math.inf) -> bool:
        """Send a frame; False when the process is down, or more than so much would wait for it. Never waits."""
        if self._transport is None or self._transport.get_write_buffer_size() + len(frame) > limit_bytes:
            return False
        self._transport.write(frame)
        return True

    async def run(self) -> None:
        """Keep the process up while it is wanted."""
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S)
        while not self._stopped:
            await self._wanted.wait()
            if self._stopped:
                return
            began = asyncio.get_running_loop().time()
            code = await self._run_once()
            if code is None:
                continue
            metrics.SHADOW_RESTARTS.inc()
            pause_s = backoff.wait_s(asyncio.get_running_loop().time() - began)
            log.warning("the shadow process ended, restarting", code=code, wait_s=pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._unwanted.wait()
            except TimeoutError:
                pass

    async def _run_once(self) -> int | None:
        """Run the process until it ends, or is not wanted any more; returns its exit code, None if it was to end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            process = self._start(theirs)
        protocol = _Socket(self._on_frame)
        lost, unwanted = (asyncio.ensure_future(each.wait()) for each in (protocol.lost, self._unwanted))
        transport: asyncio.Transport | None = None
        asked = False
        try:
            transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=ours)
            self._transport = transport
            self._on_up()
            while not (lost.done() or unwanted.done()):
                await asyncio.wait({lost, unwanted}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if asyncio.get_running_loop().time() - protocol.heard_at > SILENT_S:
                    log.error("the shadow process hangs: killing it", silent_s=SILENT_S)
                    process.kill()
                    await lost
            self._transport = None
            asked = not lost.done()
            if asked:  # by the end of the stream; what it still has to tell is heard
                transport.write_eof()
                await asyncio.wait({lost}, timeout=_END_S)
        finally:
            self._transport = None
            lost.cancel()
            unwanted.cancel()
            if transport is not None:
                transport.abort()
            code = await asyncio.shield(asyncio.to_thread(_end, process))
            self._on_down("" if asked else f"the shadow process ended (exit code {code})")
        return None if asked else code

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        settings = self._settings.model_copy(update={"home": self._settings.home.absolute()})
        return subprocess.Popen(
            tethered([sys.executable, "-P", "-m", "inference_svc.shadow"]),
            env={**os.environ, SETTINGS: settings.model_dump_json(), SOCKET: str(theirs.fileno())},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # Ctrl-C is not for it. The session stays the replica's: where the kernel groups tasks by session, a
            # priority counts within one.
            process_group=0,
        )


def _end(process: subprocess.Popen[bytes]) -> int:
    """Blocking. Exit code of a process that has closed its socket, or was told to end."""
    try:
        return process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
