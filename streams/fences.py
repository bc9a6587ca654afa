"""The generation fence: after it is raised, no partition accepts a signal made under an older deployment."""

from __future__ import annotations

import asyncio

from runtime.redis_client import Client
from streams import scripts
from streams.catalog import Catalog


async def raise_fences(redis: Client, catalog: Catalog, strategy: str, generation: int) -> None:
    """Raise the fence of a strategy in every partition. Idempotent, and never lowers one: whoever finds it behind the
    deployment's generation may call it."""
    await asyncio.gather(
        *(scripts.raise_fence(redis, strategy, partition, generation) for partition in range(catalog.partitions))
    )
