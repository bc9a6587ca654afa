"""Feature vectors to publish, and the signals and dead letters that come of them."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from quantmesh.streams.v1 import dead_letter_pb2, feature_pb2, signal_pb2
from runtime.times import from_us
from streams import OutRecord, Producer, keys, load_catalog
from streams.vector_hash import hash_of
from tests.integration.inference_svc.models import FEATURE_SET

CATALOG = load_catalog(partitions=4)
STREAM = "features.pit"
OK = feature_pb2.FEATURE_STATUS_OK

DAY_US = 86_400_000_000
START_US = 1_700_000_000_000_000


def vector(
    number: int,
    row: Sequence[float],
    *,
    feature_set: str = FEATURE_SET,
    status: feature_pb2.FeatureStatus.ValueType = OK,
    available_after_us: int = -1_000_000,
) -> feature_pb2.FeatureVector:
    """The vector of one of 16 symbols; the first value has the status, the others are OK."""
    as_of_us = START_US + number * DAY_US
    latest_us = as_of_us + available_after_us
    made = feature_pb2.FeatureVector(
        symbol=f"SYM{number % 16}",
        feature_set=feature_set,
        event_time=from_us(as_of_us - 3_600_000_000),
        as_of=from_us(as_of_us),
        max_available_at=from_us(latest_us),
        values=row,
        statuses=[status, *[OK] * (len(row) - 1)],
        value_event_times_us=[as_of_us - 3_600_000_000] * len(row),
        value_available_at_us=[latest_us] * len(row),
    )
    made.vector_hash = hash_of(made)
    return made


async def publish(redis: Redis, vectors: Sequence[feature_pb2.FeatureVector], traceparent: str = "") -> None:
    await Producer(redis, CATALOG).send_many(
        [OutRecord(STREAM, each.symbol, each.SerializeToString(), traceparent) for each in vectors]
    )


async def signals(redis: Redis, strategy: str) -> list[signal_pb2.Signal]:
    """All signals of a strategy, in the order of each partition."""
    found = []
    for partition in range(CATALOG.partitions):
        for _, fields in await redis.xrange(keys.entries(f"signals.{strategy}", partition)):
            found.append(signal_pb2.Signal.FromString(fields[keys.PAYLOAD]))
    return found


async def dead_letters(redis: Redis) -> list[dead_letter_pb2.DeadLetter]:
    found = []
    for partition in range(CATALOG.partitions):
        for _, fields in await redis.xrange(keys.dead_letters(STREAM, partition)):
            found.append(dead_letter_pb2.DeadLetter.FromString(fields[keys.PAYLOAD]))
    return found


async def consumed(redis: Redis) -> int:
    """Vectors that the scorers have committed."""
    total = 0
    for partition in range(CATALOG.partitions):
        total += int(await redis.hget(keys.group(STREAM, "trading_service", partition), "read") or 0)
    return total
