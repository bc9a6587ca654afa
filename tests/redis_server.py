"""One process of a real Redis server or Sentinel for tests: start it, ask it, kill it, pause it, start it again.

On 127.0.0.1, on a free port; it ends with the test, or with the test's process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from runtime.embedded_redis import HOST, server_binary
from runtime.tethered import tethered

_LIMIT_S = 20.0


def wait_until(true: Callable[[], bool], what: str, limit_s: float = _LIMIT_S) -> None:
    """Poll until it is true; a server that does not answer yet is not."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if true():
                return
        except (RedisError, OSError, LookupError):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)


def held_port() -> socket.socket:
    """A port for a server to listen on, also again: as long as this is open, no connection of anybody is given it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # then another may listen there
    held.bind((HOST, 0))
    return held


class Server:
    """One process of a Redis server or Sentinel. It can be killed, paused, and started again on its data and port."""

    def __init__(
        self, directory: Path, options: Mapping[str, str], *, binary: str | None = None, sentinel: bool = False
    ) -> None:
        self.held = held_port()
        self.port: int = self.held.getsockname()[1]
        self.announced = self.port
        """Where others find it."""
        self.directory = directory
        directory.mkdir(parents=True)
        self._log = directory / "log"
        base = {"bind": HOST, "port": str(self.port), "dir": str(directory)}
        if not sentinel:
            base |= {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
        lines = "".join(f"{name} {value or chr(34) * 2}\n" for name, value in {**base, **options}.items())
        (directory / "redis.conf").write_text(lines)
        self._command = [
            binary or server_binary(),
            str(directory / "redis.conf"),
            *(["--sentinel"] if sentinel else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def client(self, **options: str) -> Redis:
        """A plain client for the tests' own commands."""
        return Redis(host=HOST, port=self.port, socket_timeout=10, **options)  # type: ignore[arg-type]

    def ask(self, *command: str | int) -> object:
        """One command, on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*command)

    def info(self) -> dict[str, object]:
        with self.client() as client:
            return client.info()  # type: ignore[return-value]

    def start(self) -> None:
        """Return when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tethered(self._command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def answers() -> bool:
            assert self._process is not None
            code = self._process.poll()
            assert code is None, f"the server ended with code {code}:\n{self._log.read_text()[-2000:]}"
            with self.client() as client, suppress(AuthenticationError):  # to refuse is an answer
                client.ping()
            return True

        wait_until(answers, f"{self._command} answers")

    def kill(self) -> None:
        """SIGKILL. Harmless when it is down."""
        if self._process is not None:
            self._process.kill()  # ends a paused one too
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def server(
    directory: Path, options: Mapping[str, str] | None = None, *, binary: str | None = None, sentinel: bool = False
) -> Iterator[Server]:
    """A running server."""
    made = Server(directory, options or {}, binary=binary, sentinel=sentinel)
    with made.held:
        try:
            made.start()
            yield made
        finally:
            made.kill()
