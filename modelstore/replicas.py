"""The replica board: which inference replicas live, and which generation of each strategy they serve."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio import Redis

from modelstore import scripts

_FIRST_POLL_S, _SLOWEST_POLL_S = 0.005, 0.05


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One live replica, asked about one generation of one strategy; see `quantmesh.mlops.v1.ReplicaStatus`."""

    replica_id: str
    address: str
    generation: int
    swapped: bool
    error: str = ""


class ReplicaBoard:
    """Reports of replicas, in Redis. Methods raise what redis-py raises when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def report(
        self, replica_id: str, address: str, serving: Mapping[str, int], errors: Mapping[str, str], ttl_ms: int
    ) -> None:
        """Say what a replica serves (strategy -> generation) and what it failed to load (strategy -> why).

        It replaces the replica's report before it. The replica counts as live for `ttl_ms` (at least 1) from now.
        """
        document = {"address": address, "serving": dict(serving), "errors": dict(errors)}
        await scripts.report(self._redis, replica_id, json.dumps(document).encode(), ttl_ms)

    async def remove(self, replica_id: str) -> None:
        """Forget a replica, which goes away by its own will."""
        await scripts.report(self._redis, replica_id, b"", 0)

    async def statuses(self, strategy: str, generation: int) -> list[ReplicaState]:
        """The live replicas, sorted by id, and whether each serves the generation or a later one."""
        reports = await scripts.live_reports(self._redis)
        return [_state(replica_id, reports[replica_id], strategy, generation) for replica_id in sorted(reports)]

    async def wait_for(self, strategy: str, generation: int, timeout_s: float) -> list[ReplicaState]:
        """Wait until all live replicas serve the generation, at most `timeout_s`; returns how they stand then."""
        deadline = time.monotonic() + timeout_s
        poll_s = _FIRST_POLL_S
        while True:
            states = await self.statuses(strategy, generation)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or all(state.swapped for state in states):
                return states
            await asyncio.sleep(min(poll_s, left_s))
            poll_s = min(poll_s * 1.2, _SLOWEST_POLL_S)


def _state(replica_id: str, report: bytes, strategy: str, generation: int) -> ReplicaState:
    document = json.loads(report)
    serves = int(document["serving"].get(strategy, 0))
    return ReplicaState(
        replica_id=replica_id,
        address=document["address"],
        generation=serves,
        swapped=serves >= generation,
        error=document["errors"].get(strategy, ""),
    )
