"""Random programs of publish, process, crash, rebalance, trim and lost replies, against a model of the guarantees.

The model is two lists: what was acknowledged to the publisher, in order for each key, and what came out. After every
step the output is a prefix of the former, once each, its running count in step; nothing that a group has yet to read
has been trimmed. At the end of every program all of it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from runtime.redis_client import connect
from streams import Catalog, Outputs, OutRecord, Producer, ProducerFencedError, Record, keys, scripts
from streams.leases import LeaseLostError, Leases
from streams.reading import read
from tests.chaos.streams.effects import Effect, judge
from tests.chaos.streams.negative import without
from tests.chaos.streams.schedules import RAW, STATE, VECTORS, peaceful
from tests.chaos.streams.workers import Counting

T = TypeVar("T")

GROUP, AUDIT = "feature_processor", "audit"
SCHEDULE = peaceful(0)
PARTITIONS = (0, 1)
KEYS = [key for key in SCHEDULE.keys if SCHEDULE.catalog.partition_of(key) in PARTITIONS][:4]
MEMBERS = ("a", "b", "c")


def catalog() -> Catalog:
    """Two groups read, and what both have committed is trimmed at once."""
    usual = SCHEDULE.catalog
    raw = usual.streams[RAW]
    retention = raw.retention.model_copy(update={"keep_hours": 0.0})
    changed = raw.model_copy(update={"groups": (GROUP, AUDIT), "retention": retention})
    return usual.model_copy(update={"streams": {**usual.streams, RAW: changed}})


class LosesReplies:
    """A client of which the next script is executed, and its reply lost."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.armed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def evalsha(self, *arguments: Any) -> Any:
        return self._reply(await self._redis.evalsha(*arguments))

    async def eval(self, *arguments: Any) -> Any:
        return self._reply(await self._redis.eval(*arguments))

    def _reply(self, answer: Any) -> Any:
        if self.armed:
            self.armed = False
            raise ConnectionError("the reply was lost")
        return answer


@dataclass
class Step:
    """A step of a member that has been read and transformed, and not committed: it may come at any time, or never."""

    leases: Leases
    partition: int
    offset: str
    records: list[Record]
    outputs: Outputs


class Fabric(RuleBasedStateMachine):
    """The real scripts on a real server; time is what the rules make of it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.redis: Any = connect(url)
        self.lossy = LosesReplies(self.redis)
        self.catalog = catalog()
        self.placed = dict.fromkeys(KEYS, 0)
        self.publishers: list[Producer] = []
        self.steps: list[Step] = []

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.do(self.drain())
        finally:
            self.do(self.redis.aclose())
            self.loop.close()

    @initialize()
    def empty(self) -> None:
        self.do(self.redis.flushdb())
        self.heir()

    # Publishing

    def heir(self) -> None:
        """A new publisher takes the name over."""
        self.publishers.append(self.do(Producer(self.lossy, self.catalog, "desk").__aenter__()))  # type: ignore[arg-type]

    def records(self, key: str, count: int) -> list[OutRecord]:
        first = self.placed[key] + 1
        texts = [f"{key}|{number}" for number in range(first, first + count)]
        return [OutRecord(RAW, key, text.encode(), event_id=text) for text in texts]

    @rule(key=st.sampled_from(KEYS), count=st.integers(1, 5), lost=st.booleans())
    def publish(self, key: str, count: int, lost: bool) -> None:
        """`lost`: the server has it, and the producer must ask again."""
        self.lossy.armed = lost
        sent = self.do(self.publishers[-1].send_many(self.records(key, count)))
        assert (sent.accepted, sent.duplicates) == (count, 0)
        self.placed[key] += count

    @rule(key=st.sampled_from(KEYS), count=st.integers(1, 5), reached=st.booleans())
    def publisher_dies(self, key: str, count: int, reached: bool) -> None:
        """Before or after its batch has reached the server; its heir, with the same id, sends it again."""
        if reached:
            self.do(self.publishers[-1].send_many(self.records(key, count)))
        self.heir()
        sent = self.do(self.publishers[-1].send_many(self.records(key, count)))
        assert sent.duplicates == (count if reached else 0)
        self.placed[key] += count

    @rule(key=st.sampled_from(KEYS), back=st.integers(0, 5))
    def zombie_publishes(self, key: str, back: int) -> None:
        """An earlier publisher wakes and sends what it had in hand: it is fenced, or all of it is known already."""
        if len(self.publishers) < 2:
            return
        number = max(1, self.placed[key] - back)
        if number > self.placed[key]:
            return
        record = OutRecord(RAW, key, f"{key}|{number}".encode(), event_id=f"{key}|{number}")
        with suppress(ProducerFencedError):
            assert self.do(self.publishers[0].send_many([record])).accepted == 0

    # Processing

    @rule(
        partition=st.sampled_from(PARTITIONS),
        member=st.sampled_from(MEMBERS),
        count=st.integers(1, 4),
        late=st.booleans(),
    )
    def begin(self, partition: int, member: str, count: int, late: bool) -> None:
        """A member takes the partition if it can, reads and transforms. Until it commits, it may become a zombie.

        `late`: time has passed, and nobody has renewed the lease there was.
        """
        if late:
            self.do(self._end_lease(partition))
        self.do(self._begin(partition, member, count))

    async def _end_lease(self, partition: int) -> None:
        await self.redis.hset(keys.group(RAW, GROUP, partition), "until_ms", "1")

    async def _read(self, partition: int, offset: str, count: int) -> list[Record]:
        if not await self.redis.xrange(keys.entries(RAW, partition), min=f"({offset}", count=1):
            return []  # a read would wait
        found = await read(self.redis, self.catalog.stream(RAW), {partition: offset}, count)
        return found[partition]

    async def _begin(self, partition: int, member: str, count: int) -> None:
        leases = Leases(self.lossy, self.catalog, self.catalog.stream(RAW), GROUP, member, 60_000)  # type: ignore[arg-type]
        offset = await leases.acquire(partition)
        if offset is None:
            return
        counting = Counting(self.redis, SCHEDULE)
        await counting.load(partition)
        records = await self._read(partition, offset, count)
        if records:
            outputs = await counting.transform(partition, records)
            self.steps.append(Step(leases, partition, offset, records, outputs))

    @rule(which=st.integers(0, 20), lost=st.booleans(), again=st.booleans())
    def commit(self, which: int, lost: bool, again: bool) -> None:
        """Some step is committed: of the owner or of a zombie, now or late, with its reply lost, or twice."""
        if not self.steps:
            return
        step = self.steps[which % len(self.steps)]
        if not again:
            self.steps.remove(step)
        self.lossy.armed = lost
        with suppress(LeaseLostError):
            try:
                self.do(self._commit(step))
            except ConnectionError:  # it asks again under the same lease, as redis-py's retry does
                self.do(self._commit(step))
        self.lossy.armed = False

    async def _commit(self, step: Step) -> None:
        await step.leases.commit(step.partition, step.offset, step.records, step.outputs)

    @rule(partition=st.sampled_from(PARTITIONS), count=st.integers(1, 10))
    def audit_goes_on(self, partition: int, count: int) -> None:
        """The other group reads: what both have committed may be trimmed."""
        self.do(self._audit(partition, count))

    async def _audit(self, partition: int, count: int) -> None:
        leases = Leases(self.redis, self.catalog, self.catalog.stream(RAW), AUDIT, "auditor", 60_000)
        offset = await leases.acquire(partition)
        assert offset is not None
        records = await self._read(partition, offset, count)
        if records:
            await leases.commit(partition, offset, records, Outputs())

    # The guarantees

    @invariant()
    def effects_are_a_prefix(self) -> None:
        self.do(self._check(finished=False))

    async def _check(self, *, finished: bool) -> None:
        found = []
        for partition in PARTITIONS:
            for _, fields in await self.redis.xrange(keys.entries(VECTORS, partition)):
                found.append(Effect.of(fields[keys.PAYLOAD]))
        done = {key: sum(effect.key == key for effect in found) for key in KEYS}
        reached = self.placed if finished else done
        verdict = judge({key: range(1, reached[key] + 1) for key in KEYS}, found)
        assert verdict.sound, verdict
        for partition in PARTITIONS:
            kept = await self.redis.hgetall(keys.state(STATE, partition))
            for key, count in kept.items():
                assert int(count) == done[key.decode()], "the state is not of the same commit as the effects"
            await self._nothing_unread_is_trimmed(partition, done)

    async def _nothing_unread_is_trimmed(self, partition: int, done: dict[str, int]) -> None:
        entries = await self.redis.xrange(keys.entries(RAW, partition))
        there = {fields[keys.PAYLOAD].decode() for _, fields in entries}
        for key in KEYS:
            if self.catalog.partition_of(key) == partition:
                unread = {f"{key}|{number}" for number in range(done[key] + 1, self.placed[key] + 1)}
                assert unread <= there, "trimmed before it was read"
        appended = int(await self.redis.get(keys.appended(RAW, partition)) or 0)
        for group in (GROUP, AUDIT):
            offset, count = await self.redis.hmget(keys.group(RAW, group, partition), "offset", "read")
            behind = await self.redis.xrange(keys.entries(RAW, partition), min=f"({(offset or b'0-0').decode()}")
            assert len(behind) == appended - int(count or 0), f"{group}: the backlog is not what is there to read"

    async def drain(self) -> None:
        for partition in PARTITIONS:
            await self._end_lease(partition)
            for _ in range(sum(self.placed.values()) + 1):
                self.steps.clear()
                await self._begin(partition, MEMBERS[0], 100)
                if not self.steps:
                    break
                (step,) = self.steps
                await self._commit(step)
        await self._check(finished=True)


PROGRAMS = settings(
    max_examples=50,
    stateful_step_count=20,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a program is short as it is
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def test_random_programs_keep_the_guarantees(redis_url: str) -> None:
    run_state_machine_as_test(lambda: Fabric(redis_url), settings=PROGRAMS)


@pytest.mark.parametrize("what", ["fencing", "event_ids"])
def test_the_model_sees_when_one_is_taken_out(redis_url: str, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(scripts, "_SCRIPTS", without(what))
    many = settings(PROGRAMS, max_examples=500)  # it ends with the first that is found
    with pytest.raises(AssertionError):
        run_state_machine_as_test(lambda: Fabric(redis_url), settings=many)
