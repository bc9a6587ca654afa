"""The work queue: any member of the group takes any job, several at a time, in no order, at least once.

A member keeps the claims of its jobs while it works; those of a member that fell silent go to others after `idle_ms`.
A job that failed is tried again after that time too, and after the stream's `max_attempts` it is a dead letter.

Guarantee: a job that was appended is done at least once, or is a dead letter; it is never trimmed before. It may be
done twice, when a member dies, or pauses for longer than `idle_ms`, after the effect and before the acknowledgement:
make its effects idempotent (`streams.Inbox`).
"""

from __future__ import annotations

import asyncio
import uuid
from asyncio import TaskGroup
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import structlog
from redis.exceptions import RedisError

from runtime.errors import UnavailableError
from runtime.process import ended
from runtime.redis_client import AWAY, UNREACHABLE, Client
from streams import metrics, scripts
from streams.catalog import Catalog
from streams.jobs import Job, Jobs, Taken
from streams.leases import Setbacks, every
from streams.partitions import require_partitions
from streams.reading import BLOCK_MS
from streams.records import Poison

log = structlog.get_logger()

IDLE_MS = 10_000
"""A member that is silent for so long is dead, and its jobs go to others."""

CONCURRENCY = 10

JOB_FAILED = "JOB_FAILED"
"""The handler raised, as often as the stream allows."""

JOB_ABANDONED = "JOB_ABANDONED"
"""Members took the job, as often as the stream allows, and none lived to say how it ended."""

_WAITING: tuple[type[Exception], ...] = (*UNREACHABLE, UnavailableError)
"""What a handler raises when it is not the job's fault."""

Handler: TypeAlias = Callable[[Job], Awaitable[Poison | None]]
"""Does a job, and returns None, or the reason to give it up at once. One that raises is called again later."""


class WorkQueue:
    """One member of a group that shares a stream's jobs, while `run` runs."""

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        stream: str,
        handler: Handler,
        *,
        group: str | None = None,
        member: str | None = None,
        concurrency: int = CONCURRENCY,
        idle_ms: int = IDLE_MS,
    ) -> None:
        """`concurrency` jobs at a time at most. Defaults: the group of the catalog, and a member id of its own.

        A handler must let the event loop go on (work that computes belongs into a thread or a process): a loop that is
        held up for `idle_ms` loses its claims, and a job whose claim is lost is cancelled. A handler that raises
        UnavailableError, or cannot reach Redis, has not used an attempt.

        Raises InvalidInputError (reason NOT_KEPT) for a stream or a group that does not keep jobs until they are done.
        """
        self._redis = redis
        self._catalog = catalog
        self._stream = catalog.stream(stream)
        self._group = group or self._stream.group
        self._handler = handler
        self._member = member or uuid.uuid4().hex
        self._idle_ms = idle_ms
        self._jobs = Jobs(redis, self._stream, self._group, self._member, idle_ms)
        self._slots = asyncio.Semaphore(concurrency)
        self._under_way: dict[Job, asyncio.Task[None] | None] = {}  # without a task: done, and Redis is to hear of it
        self._look_at: dict[int, float] = defaultdict(float)
        self._looking = asyncio.Lock()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Work until `stop` is called, through whatever happens to Redis. A cancelled `run` cancels its jobs.

        Raises ConfigurationError (PARTITIONS_DIFFER), FailedPreconditionError when a processor or a consumer has the
        group (reason GROUP_IS_LEASED), and what a bug raises.
        """
        keeping = asyncio.create_task(every(self._idle_ms / 4000, self._keep))
        working = asyncio.create_task(self._work())
        try:
            await asyncio.wait({keeping, working}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
            await working
            await ended(keeping)  # lest a heartbeat that is under way says, after the leave, that this member lives
            with suppress(*AWAY):  # it will be found silent
                await self._heartbeat(leave=True)
        finally:
            for task in (keeping, working):
                await ended(task)

    def stop(self) -> None:
        """Make `run` take no further jobs, finish those under way, and return."""
        self._ended.set()

    async def _work(self) -> None:
        await self._join()
        async with TaskGroup() as tasks:
            for partition in range(self._catalog.partitions):
                tasks.create_task(self._serve(partition, tasks))

    async def _join(self) -> None:
        setbacks = Setbacks(self._stream.name, self._group)
        while not self._ended.is_set():
            try:
                await require_partitions(self._redis, self._catalog)
                for partition in range(self._catalog.partitions):
                    await self._jobs.join(partition)
                return
            except AWAY as error:
                await setbacks.after(error, self._ended)

    async def _serve(self, partition: int, tasks: TaskGroup) -> None:
        """Hand out the jobs of one partition as slots become free."""
        setbacks = Setbacks(self._stream.name, self._group, partition)
        while not self._ended.is_set():
            try:
                await self._step(partition, tasks)
                setbacks.over()
            except Exception as error:  # whatever it was, the jobs are still there
                await setbacks.after(error, self._ended)
                with suppress(RedisError, OSError):  # the server may have lost the group
                    await self._jobs.join(partition)

    async def _step(self, partition: int, tasks: TaskGroup) -> None:
        await self._slots.acquire()
        taken = Taken(None)
        try:
            if not self._ended.is_set():
                taken = await self._take(partition, tasks)
        finally:
            if taken.job is None:
                self._slots.release()
        if taken.last_id:  # without a slot: to wait for a job is not to take it
            await self._jobs.wait(partition, taken.last_id, min(BLOCK_MS, self._idle_ms // 4))

    async def _take(self, partition: int, tasks: TaskGroup) -> Taken:
        clock = asyncio.get_running_loop().time
        if clock() < self._look_at[partition]:
            taken = await self._jobs.take(partition, look=False)
            self._start(taken.job, tasks)
            return taken
        async with self._looking:
            # A job may be what kills its members. It should not take another along that has but one attempt left, so
            # last attempts are made one at a time.
            most = self._stream.max_attempts
            last_under_way = any(job.attempt == most for job in self._under_way)
            await self._keep_claims(partition)  # or, after a pause, it would find its own jobs idle
            taken = await self._jobs.take(partition, look=True, without_attempt=most if last_under_way else 0)
            self._start(taken.job, tasks)
        if not taken.claimed:
            self._look_at[partition] = clock() + self._idle_ms / 4000
        return taken

    def _start(self, job: Job | None, tasks: TaskGroup) -> None:
        if job is not None:
            self._under_way[job] = tasks.create_task(self._settle(job))

    async def _settle(self, job: Job) -> None:
        """Do a job, and say how it ended. One that failed is left pending: after `idle_ms` somebody takes it again."""
        try:
            poison = await self._do(job)
            self._under_way[job] = None
            await self._end(job, poison)
        except _WAITING as error:
            log.warning("a job waits for something: trying again later", error=str(error), **job.about())
            del self._under_way[job]
            with suppress(RedisError, OSError):  # at worst, it has used an attempt
                await self._jobs.keep(job.record.partition, {job.record.entry_id: job.attempt - 1})
        except Exception as error:
            log.warning("a job failed: trying again later", exc_info=error, **job.about())
        finally:
            self._under_way.pop(job, None)
            self._slots.release()

    async def _do(self, job: Job) -> Poison | None:
        most = self._stream.max_attempts
        if job.attempt > most:
            return Poison(job.record, JOB_ABANDONED, f"taken {most} times, and no member finished it", most)
        try:
            return await self._handler(job)
        except _WAITING:
            raise
        except Exception as error:
            if job.attempt < most:
                raise
            return Poison(job.record, JOB_FAILED, repr(error), job.attempt)

    async def _end(self, job: Job, poison: Poison | None) -> None:
        """Take a job off the queue, however long the server is away; after `stop`, try once more."""
        setbacks = Setbacks(self._stream.name, self._group, job.record.partition)
        while True:
            last_try = self._ended.is_set()
            try:
                ended_now = await self._jobs.end(job.record, poison)
                break
            except (RedisError, OSError) as error:
                if last_try:
                    log.error("a job ended, and Redis did not hear of it", error=str(error), **job.about())
                    return
                await setbacks.after(error, self._ended)
        if ended_now:
            metrics.CONSUMED.labels(self._stream.name, self._group).inc()
            metrics.LAG_SECONDS.labels(self._stream.name, self._group).observe(job.record.age_s())
            if poison:
                metrics.DEAD.labels(self._stream.name, self._group, poison.reason).inc()

    async def _keep(self) -> None:
        """Say that this member lives, and is at its jobs."""
        await self._heartbeat()
        for partition in {job.record.partition for job in self._under_way}:
            await self._keep_claims(partition)

    async def _keep_claims(self, partition: int) -> None:
        """Renew the claims of jobs under way; let go of those that are another's by now."""
        jobs = {job.record.entry_id: job for job in self._under_way if job.record.partition == partition}
        if not jobs:
            return
        for entry_id in await self._jobs.keep(partition, {name: job.attempt for name, job in jobs.items()}):
            task = self._under_way.get(jobs[entry_id])
            if task is not None:
                log.warning("the claim of a job is lost: cancelling it", **jobs[entry_id].about())
                task.cancel()

    async def _heartbeat(self, *, leave: bool = False) -> None:
        await scripts.heartbeat(self._redis, self._stream, self._group, self._member, self._idle_ms, leave=leave)
