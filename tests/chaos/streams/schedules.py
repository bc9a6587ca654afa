"""A schedule: what is published, by whom it is processed, and who dies when. All of it follows from the seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from streams import Catalog, OutRecord, load_catalog
from streams.failpoints import POINTS

PARTITIONS = 4
RAW, VECTORS, ORDERS, SIGNALS = "features.raw", "features.pit", "orders", "signals.chaos"
STATE = "counts"
LEASE_MS = 300
SKEW_S = 90_000.0
"""How far the clock of a life may be off, either way: more than a day. Nothing that is promised goes by it."""

ORDER_EVERY = 5
"""Each so many-th record of a key makes an order too."""

OF_PRODUCERS = tuple(point for point in POINTS if point.startswith("produce"))
OF_PROCESSORS = tuple(point for point in POINTS if not point.startswith("produce"))


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one life of a worker."""

    kind: Literal["point", "kill", "zombie", "leave", "live"]
    point: str = ""
    """Where it is killed (`point`), or stopped until its lease is over (`zombie`)."""
    count: int = 0
    """At which passage of the point."""
    after_s: float = 0.0
    """When it is killed (`kill`), or told to leave (`leave`)."""

    def __str__(self) -> str:
        return f"{self.point}" if self.kind == "point" else f"zombie {self.point}" if self.point else self.kind


LIVE = Fate("live")


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The lives of one worker; after the last fate it lives."""

    fates: tuple[Fate, ...]
    same_name: bool
    """Whether it keeps its producer id or member name from life to life."""
    mode: Literal["send_many", "send", "post"] = "send_many"
    """How a producer sends."""
    skews_s: tuple[float, ...] = ()
    """By how much the clock of each life is off."""

    def name(self, role: str, seed: int, number: int, life: int) -> str:
        """Producer id or member name of a life."""
        return f"{role}-{seed}-{number}" + ("" if self.same_name else f"-{life}")


@dataclass(frozen=True)
class Schedule:
    """Everything about one run."""

    seed: int
    records: int
    event_ids: bool
    keep_hours: float
    high_water: int
    poison: frozenset[tuple[str, int]]
    producers: tuple[WorkerPlan, ...]
    members: tuple[WorkerPlan, ...]
    lease_ms: int = LEASE_MS
    durability: str = "memory"
    """Of the source."""
    keys: tuple[str, ...] = field(default=tuple(f"K{n}" for n in range(12)))

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog of the mesh, with small limits."""
        usual = load_catalog(PARTITIONS)
        raw = usual.streams[RAW]
        retention = raw.retention.model_copy(update={"keep_hours": self.keep_hours})
        limits = {"high_water": self.high_water, "low_water": self.high_water // 2, "max_batch_delay_ms": 1.0}
        changed = {
            RAW: raw.model_copy(
                update={**limits, "max_attempts": 2, "retention": retention, "durability": self.durability}
            ),
            VECTORS: usual.streams[VECTORS].model_copy(update={**limits, "groups": ("scorer",)}),
            # `aof` asks the server's disk at each commit: the restarts' own tests do that.
            ORDERS: usual.streams[ORDERS].model_copy(update={"durability": "memory"}),
        }
        return usual.model_copy(update={"streams": {**usual.streams, **changed}})

    def source(self, producer: int) -> list[OutRecord]:
        """What a producer publishes, in order: the keys whose number is its own modulo the number of producers."""
        rng = random.Random(f"{self.seed}/source/{producer}")
        mine = self.keys[producer :: len(self.producers)]
        placed = dict.fromkeys(mine, 0)
        made = []
        for _ in range(self.records // len(self.producers)):
            key = rng.choice(mine)
            placed[key] += 1
            text = f"{key}|{placed[key]}"
            made.append(OutRecord(RAW, key, text.encode(), event_id=text if self.event_ids else ""))
        return made

    @cached_property
    def published(self) -> dict[str, list[int]]:
        """Key → numbers of all that is published."""
        counts: dict[str, int] = dict.fromkeys(self.keys, 0)
        for producer in range(len(self.producers)):
            for record in self.source(producer):
                counts[record.key] += 1
        return {key: list(range(1, count + 1)) for key, count in counts.items()}


def schedule_of(seed: int, records: int = 480) -> Schedule:
    """The schedule of a seed. Seeds in a row come by every point."""
    rng = random.Random(seed)
    producers = tuple(_plan(rng, OF_PRODUCERS, seed + number, most=10) for number in range(2))
    members = tuple(_plan(rng, OF_PROCESSORS, seed + number, most=8) for number in range(rng.choice((2, 2, 3))))
    keys = Schedule.__dataclass_fields__["keys"].default
    poison = {(rng.choice(keys), rng.randint(1, 20)) for _ in range(2)} if seed % 4 == 0 else set()
    return Schedule(
        seed=seed,
        records=records,
        event_ids=True,
        keep_hours=rng.choice((0.0, 24.0)),
        high_water=rng.choice((60, 100_000)),
        poison=frozenset(poison),
        producers=producers,
        members=members,
    )


def peaceful(seed: int, *, records: int = 480, event_ids: bool = True, mode: str = "send_many") -> Schedule:
    """A schedule in which no worker is killed: the trouble comes from elsewhere."""
    producer = WorkerPlan((), same_name=True, mode=mode)  # type: ignore[arg-type]
    member = WorkerPlan((), same_name=True)
    return Schedule(seed, records, event_ids, 24.0, 100_000, frozenset(), (producer, producer), (member, member))


def _plan(rng: random.Random, points: Sequence[str], turn: int, most: int) -> WorkerPlan:
    fates = _fates(rng, points, turn, most)
    return WorkerPlan(
        fates,
        same_name=rng.random() < 0.5,
        mode=rng.choice(("send_many", "send", "post")),
        skews_s=tuple(rng.uniform(-SKEW_S, SKEW_S) for _ in range(len(fates) + 1)),
    )


def _fates(rng: random.Random, points: Sequence[str], turn: int, most: int) -> tuple[Fate, ...]:
    """First a kill at the point whose turn it is, then two more troubles."""
    fates = [Fate("point", points[turn % len(points)], rng.randint(1, most))]
    for _ in range(2):
        kind = rng.choice(("point", "kill", "kill", "zombie", "leave"))
        if kind in ("point", "zombie"):
            fates.append(Fate(kind, rng.choice(points), rng.randint(1, most)))  # type: ignore[arg-type]
        else:
            fates.append(Fate(kind, after_s=rng.uniform(0.02, 0.4)))  # type: ignore[arg-type]
    rng.shuffle(fates)
    return tuple(fates)
