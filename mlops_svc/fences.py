"""The fences of all partitions, as rollout uses them; see `streams.fences`."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.redis_client import Client
from streams import Catalog, keys, raise_fences


@dataclass(frozen=True, slots=True)
class Standing:
    """How the fences of a strategy stand, over all partitions; 0 where there is none."""

    lowest: int
    highest: int


class Fences:
    """Makes every partition refuse signals that were made under an older generation."""

    def __init__(self, redis: Client, catalog: Catalog) -> None:
        self._redis = redis
        self._catalog = catalog

    async def standing(self, strategy: str) -> Standing:
        """The lowest and the highest fence of a strategy."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for partition in range(self._catalog.partitions):
                pipeline.get(keys.fence(strategy, partition))
            fences = [int(value or 0) for value in await pipeline.execute()]
        return Standing(min(fences), max(fences))

    async def put_up(self, strategy: str, generation: int) -> None:
        """Raise those that are lower. Idempotent."""
        await raise_fences(self._redis, self._catalog, strategy, generation)
