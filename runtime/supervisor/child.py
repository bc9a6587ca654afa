"""One supervised process: started, watched, restarted with back-off, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from runtime.backoff import Backoff
from runtime.process import EX_CONFIG
from runtime.tethered import tethered

log = structlog.get_logger()

LOG_LIMIT_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run, and how to tell that it does its work."""

    name: str
    command: Sequence[str]
    ready: Callable[[], Awaitable[bool]]
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it gets beside what every process of the mesh gets."""
    drain: Callable[[float], Awaitable[None]] | None = None
    """Lets its calls in flight finish, within so many seconds: for a program that would cut them at SIGTERM."""


class ConfigError(Exception):
    """The child ended with exit code 78 at its first start: trying again would not help."""


class Child:
    """Runs one spec until it is stopped. The process is tied to this one, so neither outlives the supervisor."""

    def __init__(
        self, spec: ChildSpec, environment: Mapping[str, str], logs_dir: Path, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called after each start and end of the process."""
        self.spec = spec
        self.restarts = 0
        self.log_path = logs_dir / f"{spec.name}.log"
        self._environment = {**environment, **spec.environment}
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._log_start: int | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None while it is down."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> asyncio.Task[None]:
        """Keep the process up until `stop`. The task fails with ConfigError when the first start ends so."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    async def stop(self, grace_s: float) -> None:
        """End it: SIGTERM, then SIGKILL after the grace. Returns when it is gone."""
        self._stopping.set()
        if self._task is None:
            return
        if self.spec.drain is not None and self.pid is not None:
            await self.spec.drain(grace_s)
        self._signal(signal.SIGTERM)
        await asyncio.wait({self._task}, timeout=grace_s)
        if not self._task.done():
            log.warning("process did not end in time, killing it", process=self.spec.name, grace_s=grace_s)
            self.kill()
            await asyncio.wait({self._task})

    def kill(self) -> None:
        """End it at once, with whatever it has started."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def last_lines(self, count: int = 10) -> str:
        """The end of what it wrote, over all its starts in this mesh: a restart must not hide why it was needed."""
        try:
            written = self.log_path.read_bytes()[self._log_start :]
        except FileNotFoundError:
            return ""
        return "\n".join(written.decode(errors="replace").splitlines()[-count:])

    async def _run(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once()
            self._on_change()
            if self._stopping.is_set():
                return
            # One that has started before has a configuration it can start with; what keeps it from that now, such as a
            # connection that has taken its port, will pass.
            if code == EX_CONFIG and not self.restarts:
                raise ConfigError(f"{self.spec.name} cannot start:\n{self.last_lines()}")
            up_s = time.monotonic() - started
            wait_s = backoff.wait_s(up_s)
            log.warning(
                "process ended, restarting", process=self.spec.name, code=code, up_s=round(up_s, 1), wait_s=wait_s
            )
            await self._pause(wait_s)
            self.restarts += 1

    async def _run_once(self) -> int:
        mode = "wb" if self.log_path.exists() and self.log_path.stat().st_size > LOG_LIMIT_BYTES else "ab"
        with self.log_path.open(mode) as output:
            self._log_start = output.tell() if self._log_start is None else min(self._log_start, output.tell())
            self._process = await asyncio.create_subprocess_exec(
                *tethered(self.spec.command),
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends its children in order
            )
        self._on_change()
        if self._stopping.is_set():  # told to stop while it was being started
            self._signal(signal.SIGTERM)
        return await self._process.wait()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            return
        try:
            # The session's process group has the child's id. SIGTERM is for the child alone, which ends its own.
            os.killpg(pid, number) if number is signal.SIGKILL else os.kill(pid, number)
        except ProcessLookupError:
            return
