"""The work queue on a real server: every job ends, whoever dies; several at a time; none is trimmed before it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from quantmesh.streams.v1.dead_letter_pb2 import DeadLetter
from runtime.embedded_redis import EmbeddedRedis
from runtime.errors import FailedPreconditionError, UnavailableError
from runtime.redis_client import Client, connect
from streams import Consumer, OutRecord, Poison, Producer, Record, keys, load_catalog
from streams.jobs import Job, Jobs
from streams.work_queue import Handler, WorkQueue
from tests.waiting import until

STREAM, GROUP = "jobs", "workers"
YAML = """
stream_backend: redis_streams
stream_max_lag_ms: 200
consumer_group: workers
max_attempts: 3
streams:
  jobs:
    payload: google.protobuf.StringValue
    key: id
    delivery: at_least_once
    retention: {policy: committed, keep_hours: 0}
  shared:
    payload: google.protobuf.StringValue
    key: id
    groups: [workers, audit]
    delivery: at_least_once
    retention: {policy: committed, keep_hours: 0}
"""
IDLE_MS = 400


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_text(YAML)
    return path


class Mesh:
    """A stream with jobs, and what was done with them."""

    def __init__(self, redis: Client, yaml: Path, partitions: int, stream: str = STREAM) -> None:
        self.redis = redis
        self.stream = stream
        self.catalog = load_catalog(partitions, yaml)
        self.partitions = range(partitions)
        self.done: Counter[int] = Counter()

    async def publish(self, *numbers: int) -> None:
        records = [OutRecord(self.stream, f"K{n}", str(n).encode(), traceparent="00-a-b-01") for n in numbers]
        await Producer(self.redis, self.catalog).send_many(records)

    async def do(self, job: Job) -> None:
        self.done[int(job.record.payload)] += 1

    @asynccontextmanager
    async def member(self, handler: Handler, concurrency: int = 4, idle_ms: int = IDLE_MS) -> AsyncIterator[WorkQueue]:
        queue = WorkQueue(self.redis, self.catalog, self.stream, handler, concurrency=concurrency, idle_ms=idle_ms)
        task = asyncio.create_task(queue.run())
        try:
            yield queue
        finally:
            queue.stop()
            await task

    async def read(self) -> int:
        """Jobs that ended, as backpressure counts them."""
        counts = [await self.redis.hget(keys.group(self.stream, GROUP, p), "read") for p in self.partitions]
        return sum(int(count or 0) for count in counts)

    async def pending(self) -> int:
        """Jobs that were taken and have not ended."""
        pending = [await self.redis.xpending(keys.entries(self.stream, p), GROUP) for p in self.partitions]
        return sum(summary["pending"] for summary in pending)

    async def dead(self) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        for partition in self.partitions:
            entries = await self.redis.xrange(keys.dead_letters(self.stream, partition))
            found += [DeadLetter.FromString(fields[b"payload"]) for _, fields in entries]
        return found


async def test_members_share_the_jobs_and_each_is_done_once(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=4)
    by_member: list[Counter[int]] = [Counter(), Counter(), Counter()]

    def worker(counts: Counter[int]) -> Handler:
        async def work(job: Job) -> None:
            await asyncio.sleep(0.002)
            counts[int(job.record.payload)] += 1
            assert job.attempt == 1
            assert job.record.traceparent == "00-a-b-01"

        return work

    async with AsyncExitStack() as members:
        for counts in by_member:
            await members.enter_async_context(mesh.member(worker(counts), idle_ms=10_000))
        await mesh.publish(*range(600))
        await until(lambda: _is(mesh.read, 600))
    assert sum(by_member, Counter()) == Counter(range(600))
    assert all(counts for counts in by_member)
    assert await mesh.pending() == 0


async def test_jobs_of_one_partition_run_side_by_side_up_to_the_bound(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    now = most = 0
    full = asyncio.Event()

    async def work(job: Job) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 5:
            full.set()
        await full.wait()
        await asyncio.sleep(0.005)
        now -= 1

    await mesh.publish(*range(40))
    async with mesh.member(work, concurrency=5):
        await until(lambda: _is(mesh.read, 40))
    assert most == 5


async def test_a_member_with_all_its_hands_full_leaves_jobs_to_others(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=4)
    release = asyncio.Event()
    held: list[int] = []

    async def hold(job: Job) -> None:
        held.append(int(job.record.payload))
        await release.wait()

    async with mesh.member(hold, concurrency=2):
        await mesh.publish(*range(30))
        await until(lambda: len(held) == 2)
        async with mesh.member(mesh.do):
            await until(lambda: len(mesh.done) == 28)
        release.set()
        await until(lambda: _is(mesh.read, 30))
    assert set(held) == set(range(30)) - mesh.done.keys()


async def test_a_long_job_keeps_its_claim(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    attempts: list[int] = []

    async def long(job: Job) -> None:
        attempts.append(job.attempt)
        await asyncio.sleep(4 * IDLE_MS / 1000)

    await mesh.publish(1)
    async with mesh.member(long), mesh.member(long):
        await until(lambda: _is(mesh.read, 1))
    assert attempts == [1]


async def test_a_job_that_fails_is_tried_again_and_then_a_dead_letter(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=2)
    attempts: dict[int, list[int]] = {}

    async def work(job: Job) -> Poison | None:
        number = int(job.record.payload)
        attempts.setdefault(number, []).append(job.attempt)
        if number == 3 or (number == 5 and job.attempt < 3):
            raise ValueError(f"no {number}")
        return Poison(job.record, "ODD_ORDER", "not a job") if number == 4 else None

    await mesh.publish(*range(10))
    async with mesh.member(work):
        await until(lambda: _is(mesh.read, 10))
    assert attempts.pop(3) == attempts.pop(5) == [1, 2, 3]
    assert set(map(tuple, attempts.values())) == {(1,)}
    three, four = sorted(await mesh.dead(), key=lambda letter: letter.payload)
    assert (three.payload, three.reason, three.attempts) == (b"3", "JOB_FAILED", 3)
    assert three.error == "ValueError('no 3')"
    assert (three.stream, three.group, three.traceparent) == (STREAM, GROUP, "00-a-b-01")
    assert (four.payload, four.reason, four.attempts) == (b"4", "ODD_ORDER", 1)


async def test_waiting_for_a_service_uses_no_attempt(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    attempts: list[int] = []

    async def work(job: Job) -> None:
        attempts.append(job.attempt)
        if len(attempts) < 6:
            raise UnavailableError("the bank is closed", reason="BANK_CLOSED")

    await mesh.publish(1)
    async with mesh.member(work):
        await until(lambda: _is(mesh.read, 1))
    assert attempts == [1] * 6
    assert not await mesh.dead()


async def test_a_stop_finishes_the_jobs_under_way_and_takes_no_more(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=2)
    started = 0

    async def work(job: Job) -> None:
        nonlocal started
        started += 1
        await asyncio.sleep(2 * IDLE_MS / 1000)  # its claim is kept while the member stops
        await mesh.do(job)

    await mesh.publish(*range(20))
    async with mesh.member(work, concurrency=3) as first, mesh.member(work, concurrency=3):
        await until(lambda: started == 6)
        first.stop()
    assert sum(mesh.done.values()) == len(mesh.done) == await mesh.read() == 6
    assert await mesh.pending() == 0
    async with mesh.member(mesh.do):
        await until(lambda: len(mesh.done) == 20)


async def test_a_run_that_is_cancelled_leaves_its_jobs_to_others(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    taken: list[int] = []

    async def hang(job: Job) -> None:
        taken.append(int(job.record.payload))
        await asyncio.sleep(60)

    await mesh.publish(1, 2, 3)
    task = asyncio.create_task(WorkQueue(redis, mesh.catalog, STREAM, hang, idle_ms=IDLE_MS).run())
    await until(lambda: len(taken) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with mesh.member(mesh.do):
        await until(lambda: _is(mesh.read, 3))
    assert mesh.done == Counter([1, 2, 3])


async def test_a_member_that_was_paused_does_not_take_its_own_jobs_again(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    attempts: list[int] = []

    async def work(job: Job) -> None:
        attempts.append(job.attempt)
        time.sleep(2 * IDLE_MS / 1000)  # noqa: ASYNC251 - the whole loop stands still, as when a process is stopped
        await asyncio.sleep(0.05)

    await mesh.publish(1, 2, 3)
    async with mesh.member(work):
        await until(lambda: _is(mesh.read, 3))
    assert attempts == [1, 1, 1]


async def test_a_job_that_is_done_is_not_taken_again_while_redis_hears_of_it(
    redis: Client, yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    entries, hour_ms, end = keys.entries(STREAM, 0), 3_600_000, Jobs.end
    other = Jobs(redis, mesh.catalog.stream(STREAM), GROUP, "other", hour_ms)

    async def pending() -> dict[str, Any]:
        return (await redis.xpending_range(entries, GROUP, "-", "+", 1))[0]

    async def is_kept() -> bool:
        return (await pending())["time_since_delivered"] < hour_ms

    async def slow_end(jobs: Jobs, record: Record, poison: Poison | None) -> bool:
        for _ in range(3):  # as when the connection must be made anew: the claim grows old, and old again
            owner = (await pending())["consumer"]
            await redis.xclaim(entries, GROUP, owner, 0, [record.entry_id], idle=hour_ms, justid=True)
            await until(is_kept)
            assert (await other.take(0, look=True)).job is None
        return await end(jobs, record, poison)

    monkeypatch.setattr(Jobs, "end", slow_end)
    await mesh.publish(1)
    async with mesh.member(mesh.do, concurrency=1):  # without a slot it does not look for jobs itself
        await until(lambda: _is(mesh.read, 1))
    assert mesh.done == Counter([1])


async def test_a_zombie_loses_its_claim_and_may_not_give_the_job_up(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    stream = mesh.catalog.stream(STREAM)
    zombie, other = (Jobs(redis, stream, GROUP, member, idle_ms=1) for member in ("zombie", "other"))
    await mesh.publish(1)
    await zombie.join(0)
    job = (await zombie.take(0, look=True)).job
    assert job is not None

    async def claimed() -> bool:
        return (await other.take(0, look=True)).claimed

    await until(claimed)
    assert await zombie.keep(0, {job.record.entry_id: 1}) == {job.record.entry_id}
    assert not await zombie.end(job.record, Poison(job.record, "X", "x"))
    assert not await mesh.dead()
    assert await other.end(job.record, None)
    assert not await zombie.end(job.record, None), "it counts once"
    assert await mesh.read() == 1


async def test_a_job_whose_claim_is_lost_is_cancelled(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    cancelled: list[int] = []

    async def work(job: Job) -> None:
        if job.attempt > 1:
            return
        try:
            await redis.xclaim(keys.entries(STREAM, 0), GROUP, "thief", 0, [job.record.entry_id])
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(job.attempt)
            raise

    await mesh.publish(1)
    async with mesh.member(work, concurrency=1):  # and its slot is free again
        await until(lambda: _is(mesh.read, 1))
    assert cancelled == [1]


async def test_trimming_stays_behind_the_oldest_job_that_has_not_ended(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    await redis.config_set("stream-node-max-entries", 10)  # trimming is by whole nodes
    release = asyncio.Event()

    async def work(job: Job) -> None:
        if job.record.payload == b"150":
            await release.wait()

    state = keys.group(STREAM, GROUP, 0)
    try:
        async with mesh.member(work):
            for start in range(0, 300, 50):
                await mesh.publish(*range(start, start + 50))
            try:
                await until(lambda: _is(mesh.read, 299))
                entries = await redis.xrange(keys.entries(STREAM, 0))
                offset = await redis.hget(state, "offset")
            finally:
                release.set()
            await until(lambda: _is(mesh.read, 300))
    finally:
        await redis.config_set("stream-node-max-entries", 100)
    payloads = [int(fields[b"payload"]) for _, fields in entries]
    assert min(payloads) > 50, "what all jobs before it needed is trimmed"
    assert 150 in payloads
    assert offset is not None
    held = entries[payloads.index(150)][0]
    assert not [1 for entry_id, _ in entries if _order(offset) < _order(entry_id) < _order(held)]
    assert _order(offset) < _order(held)
    info = await redis.xinfo_stream(keys.entries(STREAM, 0))
    assert await redis.hget(state, "offset") == info["last-generated-id"]
    assert info["length"] < 60


async def test_trimming_waits_for_the_other_groups(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1, stream="shared")
    await redis.config_set("stream-node-max-entries", 10)
    try:
        await mesh.publish(*range(100))
        async with mesh.member(mesh.do):
            await until(lambda: _is(mesh.read, 100))
            assert await redis.xlen(keys.entries("shared", 0)) == 100
            await redis.hset(keys.group("shared", "audit", 0), "dropped", "1")
            await asyncio.sleep(0.01)  # entries of another millisecond
            await mesh.publish(*range(100, 150))
            await until(lambda: _is(mesh.read, 150))
            assert await redis.xlen(keys.entries("shared", 0)) <= 60
    finally:
        await redis.config_set("stream-node-max-entries", 100)


async def test_a_job_that_an_operator_deleted_does_not_hold_up_the_rest(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    stream = mesh.catalog.stream(STREAM)
    dead = Jobs(redis, stream, GROUP, "dead", IDLE_MS)
    await mesh.publish(1, 2)
    await dead.join(0)
    job = (await dead.take(0, look=False)).job
    assert job is not None
    await redis.xdel(keys.entries(STREAM, 0), job.record.entry_id)
    async with mesh.member(mesh.do):
        await until(lambda: _is(mesh.read, 2))
    assert mesh.done == Counter([2])
    assert await mesh.pending() == 0


async def test_names_of_the_dead_do_not_gather(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)
    for number in range(5):
        await mesh.publish(number)
        async with mesh.member(mesh.do):
            await until(lambda: _is(mesh.read, number + 1))  # noqa: B023

    async def names() -> bool:
        return len(await redis.xinfo_consumers(keys.entries(STREAM, 0), GROUP)) == 1

    async with mesh.member(mesh.do):
        await until(names)


async def test_a_group_is_a_work_queue_or_owns_partitions(redis: Client, yaml: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=1)

    async def consume(batches: object) -> list[Poison]:
        return []

    consumer = Consumer(redis, mesh.catalog, STREAM, consume)
    task = asyncio.create_task(consumer.run())
    await until(lambda: _exists(redis, keys.group(STREAM, GROUP, 0)))
    with pytest.raises(FailedPreconditionError) as error:
        await WorkQueue(redis, mesh.catalog, STREAM, mesh.do).run()
    assert error.value.reason == "GROUP_IS_LEASED"
    consumer.stop()
    await task


async def test_redis_away_pauses_and_no_job_is_lost(tmp_path: Path, yaml: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    with server:
        redis = connect(server.url)
        mesh = Mesh(redis, yaml, partitions=2)
        release = asyncio.Event()
        started: list[int] = []

        async def work(job: Job) -> None:
            started.append(int(job.record.payload))
            if not release.is_set():
                await release.wait()
            await mesh.do(job)

        await mesh.publish(*range(20))
        async with mesh.member(work, concurrency=3):
            await until(lambda: len(started) == 3)
            server.stop()
            release.set()  # they end while nobody can hear of it
            await until(lambda: len(mesh.done) == 3)
            server.start()
            await until(lambda: _is(mesh.read, 20))
        assert set(mesh.done) == set(range(20))
        await redis.aclose()


_MEMBER = """
import asyncio, sys
from pathlib import Path
from runtime.redis_client import connect
from streams import load_catalog
from streams.work_queue import WorkQueue

async def main():
    url, yaml, effects, crash_on = sys.argv[1:]
    async def work(job):
        number = job.record.payload.decode()
        if number == crash_on:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.005)
        with open(effects, "a") as file:
            file.write(number + "\\n")
    await WorkQueue(connect(url), load_catalog(4, Path(yaml)), "jobs", work, concurrency=4, idle_ms=1_000).run()

asyncio.run(main())
"""


class Members:
    """Processes, each a member of the group; all of them end with the test."""

    def __init__(self, url: str, yaml: Path, effects: Path) -> None:
        self._arguments = [url, str(yaml), str(effects)]
        self.effects = effects
        effects.touch()
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, crash_on: str = "never") -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", _MEMBER, *self._arguments, crash_on])
        self.processes.append(process)
        return process

    def done(self) -> Counter[int]:
        return Counter(map(int, self.effects.read_text().split()))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


async def test_a_member_that_is_killed_loses_no_job(redis: Client, redis_url: str, yaml: Path, tmp_path: Path) -> None:
    mesh = Mesh(redis, yaml, partitions=4)
    members = Members(redis_url, yaml, tmp_path / "effects")
    try:
        victims = [members.start(), members.start()]
        members.start()
        await mesh.publish(*range(1_000))
        for count, victim in zip((150, 400), victims, strict=True):
            await until(lambda: len(members.done()) > count, limit_s=60)  # noqa: B023
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait()
        await until(lambda: _is(mesh.read, 1_000), limit_s=60)
    finally:
        members.end()
    done = members.done()
    assert done.keys() == set(range(1_000))
    assert sum(done.values()) - 1_000 <= 8, "only what was under way in a dead member is done again"
    assert await mesh.pending() == 0
    assert not await mesh.dead()


async def test_a_job_that_kills_its_members_becomes_a_dead_letter(
    redis: Client, redis_url: str, yaml: Path, tmp_path: Path
) -> None:
    mesh = Mesh(redis, yaml, partitions=4)
    members = Members(redis_url, yaml, tmp_path / "effects")
    await mesh.publish(*range(20))
    try:
        for _ in range(3):
            members.start(crash_on="7")
            await until(_has_ended(members.processes[-1]), limit_s=60)
        members.start(crash_on="7")  # the fourth does not even try
        await until(lambda: _is(mesh.read, 20), limit_s=60)
    finally:
        members.end()
    (letter,) = await mesh.dead()
    assert (letter.payload, letter.reason, letter.attempts) == (b"7", "JOB_ABANDONED", 3)
    assert members.done().keys() == set(range(20)) - {7}


def _has_ended(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    return lambda: process.poll() is not None


async def _is(count: Callable[[], object], number: int) -> bool:
    return await count() == number  # type: ignore[misc]


async def _exists(redis: Client, key: str) -> bool:
    return bool(await redis.exists(key))


def _order(entry_id: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split(b"-")))
