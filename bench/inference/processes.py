"""One server of the bench: started, waited for, ended with all that it has started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.inference.machine import identity, tree
from bench.load.build import UnavailableError
from runtime.tethered import tethered

_READY_S, _LOOK_EVERY_S, _END_S = 60.0, 0.1, 15.0


class Server:
    """A process that is to listen on a port."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None):
        self._name = name
        self._command = command
        self._log = log
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id, once it was started."""
        assert self._process is not None
        return self._process.pid

    async def start(self, *ports: int) -> None:
        """Return when it listens on the ports. Raises UnavailableError with the end of what it wrote."""
        with self._log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *tethered(self._command),
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = asyncio.get_running_loop().time() + _READY_S
        for port in ports:
            while not await _listens(port):
                if self._process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                    await self.stop()
                    raise UnavailableError(f"{self._name} does not start: {self._last_lines()}")
                await asyncio.sleep(_LOOK_EVERY_S)

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL for what is left of it and of its children after a while."""
        if self._process is None:
            return
        family = [each for pid in tree(self._process.pid) if (each := identity(pid)) is not None]
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), _END_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        until = asyncio.get_running_loop().time() + _END_S
        while left := [each for each in family if identity(each[0]) == each]:
            if asyncio.get_running_loop().time() > until:
                for pid, _ in left:
                    os.kill(pid, signal.SIGKILL)
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def _last_lines(self) -> str:
        return " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])[-500:]


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return True
