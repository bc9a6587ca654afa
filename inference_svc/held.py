"""Vectors kept for a strategy that cannot score them yet, so that it holds up nobody but itself and loses nothing.

While a strategy's model cannot be loaded, the scorer's commits copy each vector to the strategy's own stream
`features.held.{strategy}`, in the partition that it came from, together with the offset: all or nothing, as its signals
would have been. Once a replica serves the strategy, a processor of that stream makes the signals, under the strategy's
fence alone. Until it is through, newer vectors queue behind in the same stream, so that the order of the signals is
that of the vectors.

The one rule: a strategy is scored directly in a partition only when nothing of it is held there. Only the owner of the
partition adds to the stream, by commits that its lease guards; so once it sees the stream empty, it stays empty until
that owner itself adds to it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import structlog
from redis.exceptions import RedisError

from inference_svc import metrics
from inference_svc.follower import Follower
from inference_svc.registry import Registry, Serving
from inference_svc.steps import StepScorer, faults_of, read_records, signals_of
from inference_svc.taps import Taps
from runtime.errors import UnavailableError
from runtime.process import ended
from runtime.redis_client import AWAY, Client
from streams import Catalog, Outputs, Processor, Record, keys
from streams.leases import pause

log = structlog.get_logger()

WAIT_S = 1.0
"""How long all wait for a strategy whose model is about to be loaded, before its vectors are held."""

_LOOK_S = 0.5
_LOOKS_AT_ALL = 10
"""Every so many looks, all strategies are looked at: another replica may have held vectors that this one can score."""


def stream_of(strategy: str) -> str:
    """The stream of the vectors that are held for a strategy."""
    return f"features.held.{strategy}"


async def backlogs(
    redis: Client, catalog: Catalog, strategies: Iterable[str], partitions: Iterable[int]
) -> dict[str, int]:
    """How many vectors are held for each strategy in these partitions."""
    pairs = [(strategy, partition) for strategy in strategies for partition in partitions]
    async with redis.pipeline(transaction=False) as pipe:
        for strategy, partition in pairs:
            stream = catalog.stream(stream_of(strategy))
            pipe.get(keys.appended(stream.name, partition))
            pipe.hmget(keys.group(stream.name, stream.group, partition), ["read", "lost"])
        answers = await pipe.execute() if pairs else []
    found = {strategy: 0 for strategy, _ in pairs}
    for (strategy, _), appended, (read, lost) in zip(pairs, answers[::2], answers[1::2], strict=True):
        found[strategy] += int(appended or 0) - int(read or 0) - int(lost or 0)
    return found


class Division(NamedTuple):
    """What happens to the vectors of one step."""

    direct: Mapping[str, Serving]
    """Strategies that score them now."""
    held: Sequence[str]
    """Strategies that they are held for."""


class Holding:
    """Says, partition by partition, which strategies are scored directly. One for each replica."""

    def __init__(self, redis: Client, catalog: Catalog, registry: Registry, follower: Follower) -> None:
        self._redis = redis
        self._catalog = catalog
        self._registry = registry
        self._follower = follower
        self._empty: dict[int, set[str]] = {}
        self._fences: dict[str, int] = {}
        self._waited: dict[str, int] = {}
        self.seen: set[str] = set()
        """Strategies that vectors were ever held for here: the ones to keep an eye on."""

    async def assigned(self, partition: int) -> None:
        """Forget what was known of a partition: another member may have held vectors there."""
        self._empty[partition] = set()

    async def fenced(self, strategy: str, generation: int) -> None:
        """A commit met the strategy's fence: wait a moment for that generation, and go on without it if need be."""
        await self._wait(strategy, generation)
        self._fences[strategy] = max(generation, self._fences.get(strategy, 0))

    async def divide(self, partition: int) -> Division:
        """Decide what happens to the next step's vectors. The step is to be committed as decided, or not at all."""
        await asyncio.gather(*(self._wait(*unserved) for unserved in self._follower.unserved().items()))
        fenced = {strategy for strategy in list(self._fences) if await self._is_fenced(strategy, partition)}
        empty = self._empty.setdefault(partition, set())
        unknown = self._registry.current.servings.keys() - empty - fenced
        if unknown:
            found = await backlogs(self._redis, self._catalog, unknown, [partition])
            empty |= {strategy for strategy, count in found.items() if count <= 0}
        # From here on nothing is waited for: what is decided is of one moment.
        servings = self._registry.current.servings
        direct = {name: serving for name, serving in servings.items() if name in empty and name not in fenced}
        held = (servings.keys() | self._follower.unserved().keys()) - direct.keys()
        empty -= held
        self.seen |= held
        return Division(direct, sorted(held))

    async def _is_fenced(self, strategy: str, partition: int) -> bool:
        """Whether a partition refuses what is served of a strategy. The server is asked: it may have lost a fence."""
        if self._generation(strategy) >= self._fences.get(strategy, 0):
            self._fences.pop(strategy, None)
            return False
        lowest = int(await self._redis.get(keys.fence(strategy, partition)) or 0)
        return self._generation(strategy) < lowest

    def _generation(self, strategy: str) -> int:
        serving = self._registry.current.servings.get(strategy)
        return serving.generation if serving else 0

    async def _wait(self, strategy: str, generation: int) -> None:
        """Wait for a generation, once: the others are not to wait for it again with every step."""
        if self._waited.get(strategy) == generation:
            return
        try:
            await self._follower.wait_for_generation(strategy, generation, WAIT_S)
        except UnavailableError as error:
            if self._waited.get(strategy) != generation:  # another partition may have told
                log.warning("vectors are held for a strategy until it can score them", error=error.message)
            self._waited[strategy] = generation


class Releasing:
    """Scores what is held for the strategies that this replica serves, while `run` runs."""

    def __init__(
        self,
        redis: Client,
        catalog: Catalog,
        registry: Registry,
        follower: Follower,
        holding: Holding,
        batch_size: int,
        *,
        deterministic: bool,
        taps: Taps | None = None,
    ) -> None:
        self._redis = redis
        self._catalog = catalog
        self._registry = registry
        self._follower = follower
        self._holding = holding
        self._batch_size = batch_size
        self._scorer = StepScorer(deterministic=deterministic, taps=taps)
        self._at_work: dict[str, tuple[Processor, asyncio.Task[None]]] = {}
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Look now and then whether anything is held, and score it, until `stop` is called."""
        looks = itertools.cycle(range(_LOOKS_AT_ALL))
        try:
            while not self._ended.is_set():
                try:
                    await self._look(at_all=next(looks) == 0)
                except (RedisError, OSError) as error:
                    if not isinstance(error, AWAY):  # whoever reads or commits tells that Redis is away
                        log.warning("cannot see what is held: trying again", error=str(error))
                await pause(self._ended, _LOOK_S)
            for processor, _ in self._at_work.values():
                processor.stop()
            await asyncio.gather(*(task for _, task in self._at_work.values()))
        finally:
            await ended(*(task for _, task in self._at_work.values()))

    def stop(self) -> None:
        """Make `run` finish the steps under way and return."""
        self._ended.set()

    async def _look(self, *, at_all: bool) -> None:
        for strategy, (_, task) in list(self._at_work.items()):
            if task.done():
                task.result()  # a fault of the configuration, or a bug of ours
                del self._at_work[strategy]
        strategies = self._holding.seen | self._at_work.keys()
        if at_all:
            strategies |= self._registry.current.servings.keys()
        found = await backlogs(self._redis, self._catalog, strategies, range(self._catalog.partitions))
        # A replica that is behind takes no part: one that is not may be able to.
        able = self._registry.current.servings.keys() - self._follower.behind().keys()
        for strategy, count in found.items():
            metrics.HELD.labels(strategy).set(count)
            at_work = self._at_work.get(strategy)
            if at_work is not None and (count <= 0 or strategy not in able):
                at_work[0].stop()
            elif at_work is None and count > 0 and strategy in able:
                log.info("scoring what was held for a strategy", strategy=strategy, vectors=count)
                processor = self._processor(strategy)
                self._at_work[strategy] = (processor, asyncio.create_task(processor.run()))

    def _processor(self, strategy: str) -> Processor:
        stream = stream_of(strategy)

        async def transform(partition: int, records: Sequence[Record]) -> Outputs:
            serving = self._registry.current.servings[strategy]
            readable, dead = read_records(self._catalog, partition, records)
            outcomes = await self._scorer.score({strategy: serving}, readable)
            signals = [signal for outcome in outcomes for signal in signals_of(outcome, stream)]
            metrics.SIGNALS.labels(strategy).inc(len(signals))
            return Outputs(signals, dead=[*dead, *faults_of(outcomes)], fences={strategy: serving.generation})

        async def on_fenced(_: str, generation: int) -> None:
            await self._follower.wait_for_generation(strategy, generation, WAIT_S)

        return Processor(
            self._redis, self._catalog, stream, transform, on_fenced=on_fenced, batch_size=self._batch_size
        )
