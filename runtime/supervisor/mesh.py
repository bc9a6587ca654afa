"""The mesh as one thing: Redis, the services and the gateway, up for the length of an `async with` block."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from runtime import logs
from runtime.errors import QuantmeshError
from runtime.settings import MeshSettings
from runtime.supervisor.balancer import require_balancer
from runtime.supervisor.child import LOG_LIMIT_BYTES, Child, ChildSpec, ConfigError
from runtime.supervisor.environment import child_environment
from runtime.supervisor.listeners import addresses_of, with_ports
from runtime.supervisor.lock import take
from runtime.supervisor.record import Addresses, MeshRecord, remove_record, usable, write_record
from runtime.supervisor.redis_keeper import RedisKeeper, require_redis
from runtime.supervisor.services import services

log = structlog.get_logger()

REDIS = "redis"
"""Name under which the embedded Redis appears among the processes."""

_STOP_MARGIN_S = 3.0
"""What a process may take to end beyond the grace of its RPCs."""

_LOOK_EVERY_S = 0.05


class MeshFailedError(QuantmeshError):
    """The mesh cannot go on, or did not come up; the message holds the end of the log of the process at fault."""


class Mesh:
    """Starts everything on entry, restarts what dies, stops everything on exit.

    The object that holds it must live in one event loop, in a thread that stays: the processes are tied to it.
    """

    def __init__(
        self,
        settings: MeshSettings,
        *,
        environment: Mapping[str, str] | None = None,
        children: Callable[[Addresses], Sequence[ChildSpec]] = services,
        fresh: bool = False,
    ) -> None:
        """Port 0 picks a free port; `redis_url` None starts an embedded server under the home.

        `fresh` forgets what earlier meshes left in the home: Redis data, models and logs.
        `environment` goes to every process on top of the settings, such as `INFER_BATCH_SIZE`.
        """
        self.settings = settings.model_copy(update={"home": settings.home.absolute()})
        self._extra = dict(environment or {})
        self._specs = children
        self._fresh = fresh
        self._redis: RedisKeeper | None = None
        self._children: dict[str, Child] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] | None = None
        self._kept: FilteringBoundLogger

    @property
    def addresses(self) -> Addresses:
        """Where everything listens; known after entry."""
        return addresses_of(self.settings)

    @property
    def redis_url(self) -> str:
        """The Redis of this mesh; known after entry."""
        return self.settings.redis_url or ""

    @property
    def logs_dir(self) -> Path:
        """Folder of the processes' logs, `<name>.log` each, and of our own."""
        return self.settings.home / "logs"

    @property
    def _log_path(self) -> Path:
        return self.logs_dir / "supervisor.log"

    @property
    def names(self) -> list[str]:
        """The processes, in the order of their start."""
        return [*([REDIS] if self._redis else []), *self._children]

    def pid(self, name: str) -> int | None:
        """Process id of a process; None while it is down."""
        return self._process(name).pid

    def restarts(self, name: str) -> int:
        """How often a process was started again."""
        return self._process(name).restarts

    def last_lines(self, name: str) -> str:
        """The end of what a service has logged in this mesh."""
        return self._children[name].last_lines()

    async def __aenter__(self) -> Mesh:
        """Start everything, without waiting until it serves: see `ready`.

        Raises MeshRunningError; ConfigurationError, before anything is started, for a taken port, a home that cannot be
        used, an Envoy that is needed and absent, and a Redis that refuses us; UnavailableError when Redis does not
        answer or cannot start.
        """
        self._failure = asyncio.get_running_loop().create_future()
        async with AsyncExitStack() as stack:
            lock = await take(self.settings.home)
            stack.callback(lock.release)
            with usable(self.settings.home):
                self.logs_dir.mkdir(exist_ok=True)
                self._kept = stack.enter_context(logs.kept_in(self._log_path, LOG_LIMIT_BYTES))
            self._kept.info("starting", home=str(self.settings.home), pid=os.getpid())
            stack.callback(self._kept.info, "stopped")
            try:
                await self._start(stack)
            except QuantmeshError as error:
                self._kept.error(error.message, reason=error.reason)
                raise
            self._stack = stack.pop_all()
        return self

    async def _start(self, stack: AsyncExitStack) -> None:
        self.settings = with_ports(self.settings)
        if self.settings.replicas > 1:
            require_balancer(self.settings)
        if self._fresh:
            self._forget()
        if self.settings.redis_url is None:
            self._redis = RedisKeeper(self.settings.home / REDIS, self._write)
            stack.push_async_callback(self._redis.stop)
            with usable(self.settings.home):
                await self._redis.start()
            self.settings = self.settings.model_copy(update={"redis_url": self._redis.url})
        else:  # the services would each wait, and end, and be started again
            await require_redis(self.settings.redis_url, self.settings.redis_wait_s)
        stack.callback(remove_record, self.settings.home)
        stack.push_async_callback(self._stop_processes)
        self._start_processes()

    def _forget(self) -> None:
        for folder in (REDIS, "models"):
            shutil.rmtree(self.settings.home / folder, ignore_errors=True)
        for file in self.logs_dir.iterdir():
            if file != self._log_path:
                file.unlink()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything: the gateway first, the other services in reverse order, Redis last."""
        self._kept.info("stopping")
        await self._stack.aclose()

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Return when every process does its work. Raises MeshFailedError when they do not in time, or never will."""
        failure = self._entered()
        late = set(self._children)

        async def until_ready(child: Child) -> None:
            while child.pid is None or not await child.spec.ready():  # noqa: ASYNC110 - nobody tells us
                await asyncio.sleep(_LOOK_EVERY_S)
            late.discard(child.spec.name)

        waiting = asyncio.gather(*map(until_ready, self._children.values()))
        try:
            both: set[asyncio.Future[Any]] = {waiting, failure}
            await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                failure.result()
            if not waiting.done():
                said = "\n".join(f"{name}:\n{self.last_lines(name)}" for name in self._children if name in late)
                self._kept.error("not ready", processes=sorted(late), after_s=timeout_s)
                raise MeshFailedError(f"not ready after {timeout_s:g} s: {said}", reason="MESH_NOT_READY")
            waiting.result()
            self._kept.info("ready", pids={name: self.pid(name) for name in self.names})
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def watch(self) -> None:
        """Wait for as long as all is well. Raises MeshFailedError when the mesh cannot go on."""
        await asyncio.shield(self._entered())

    def kill(self) -> None:
        """End every process at once. Leave the block afterwards, as ever."""
        for child in self._children.values():
            child.kill()
        if self._redis is not None:
            self._redis.kill()

    def _entered(self) -> asyncio.Future[None]:
        assert self._failure is not None, "the mesh was not entered"
        return self._failure

    def _process(self, name: str) -> Child | RedisKeeper:
        if name == REDIS and self._redis is not None:
            return self._redis
        return self._children[name]

    def _start_processes(self) -> None:
        environment = child_environment(os.environ, self.settings, self._extra)
        for spec in self._specs(self.addresses):
            child = Child(spec, environment, self.logs_dir, self._write)
            self._children[spec.name] = child
        for child in self._children.values():
            child.start().add_done_callback(self._ended)
        if self._redis is not None:
            self._keeping = asyncio.get_running_loop().create_task(self._redis.run())
            self._keeping.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A process that may not be restarted, or a bug of ours, ends the whole mesh."""
        failure = self._entered()
        error = None if task.cancelled() else task.exception()
        if error is None or failure.done():
            return
        if isinstance(error, ConfigError):
            failed = MeshFailedError(str(error), reason="MESH_CONFIGURATION")
            self._kept.error(failed.message, reason=failed.reason)
        else:
            log.error("the supervisor failed", exc_info=error)
            failed = MeshFailedError(f"the supervisor failed: {error}", reason="MESH_SUPERVISOR")
        failure.set_exception(failed)
        failure.exception()  # whoever asks is told; nobody need ask
        self._begin_stop()

    async def _stop_processes(self) -> None:
        await self._begin_stop()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def _begin_stop(self) -> asyncio.Task[None]:
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop_children())
        return self._stopping

    async def _stop_children(self) -> None:
        for child in reversed(self._children.values()):
            await child.stop(self.settings.drain_grace_s + _STOP_MARGIN_S)

    def _write(self) -> None:
        record = MeshRecord(
            pid=os.getpid(),
            addresses=self.addresses,
            redis_url=self.redis_url,
            logs_dir=str(self.logs_dir),
            pids={name: self.pid(name) for name in self.names},
            restarts={name: self.restarts(name) for name in self.names},
        )
        write_record(self.settings.home, record)
