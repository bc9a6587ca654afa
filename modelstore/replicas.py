"""The replica board: which inference replicas live, and what they serve of each strategy."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from modelstore import scripts
from modelstore.deployments import Deployment, DeploymentStore
from runtime.redis_client import Client

_FIRST_POLL_S, _SLOWEST_POLL_S = 0.005, 0.05


class Served(NamedTuple):
    """What a replica serves of one strategy. The version too: Redis may lose a generation and count it again."""

    generation: int = 0
    champion_version: str = ""

    @classmethod
    def of(cls, deployment: Deployment) -> Served:
        """What a replica serves that is at this deployment."""
        return cls(deployment.generation, deployment.champion_version)


class Shadow(NamedTuple):
    """How a replica stands with the challenger of one strategy; see `quantmesh.mlops.v1.ShadowStatus`."""

    challenger_version: str
    ready: bool = False
    error: str = ""
    rows_scored: int = 0
    rows_dropped: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One live replica, asked about one deployment; see `quantmesh.mlops.v1.ReplicaStatus`."""

    replica_id: str
    address: str
    generation: int
    swapped: bool
    error: str = ""
    shadow: Shadow | None = None

    def shadows(self, version: str) -> bool:
        """Whether it scores with that challenger."""
        return self.shadow is not None and self.shadow.ready and self.shadow.challenger_version == version

    def settled(self, deployment: Deployment, challenger: str) -> bool:
        """Whether it serves the deployment, and either scores with the challenger or cannot (empty: there is none), or
        has gone over to a later deployment, which may have another."""
        if not self.swapped:
            return False
        if not challenger or self.generation > deployment.generation:
            return True
        shadow = self.shadow
        return shadow is not None and shadow.challenger_version == challenger and (shadow.ready or bool(shadow.error))


class ReplicaBoard:
    """Reports of replicas, in Redis. Methods raise what redis-py raises when the server is away."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self._deployments = DeploymentStore(redis)

    async def report(
        self,
        replica_id: str,
        address: str,
        serving: Mapping[str, Served],
        errors: Mapping[str, str],
        ttl_ms: int,
        shadows: Mapping[str, Shadow] | None = None,
    ) -> None:
        """Say what a replica serves of each strategy, what it failed to load (strategy -> why), and how it stands with
        challengers.

        It replaces the replica's report before it. The replica counts as live for `ttl_ms` (at least 1) from now.
        """
        document = {
            "address": address,
            "serving": dict(serving),
            "errors": dict(errors),
            "shadows": dict(shadows or {}),
        }
        await scripts.report(self._redis, replica_id, json.dumps(document).encode(), ttl_ms)

    async def remove(self, replica_id: str) -> None:
        """Forget a replica, which goes away by its own will."""
        await scripts.report(self._redis, replica_id, b"", 0)

    async def statuses(self, deployment: Deployment) -> list[ReplicaState]:
        """The live replicas, sorted by id, and whether each serves the deployment, or what has followed it by now."""
        reports = await scripts.live_reports(self._redis)
        wanted = {Served.of(deployment)}
        # Read after the reports, so that no replica is ahead of it, except by a state that Redis has lost.
        present = await self._deployments.get(deployment.strategy)
        if present is not None and present.generation > deployment.generation:
            wanted.add(Served.of(present))
        return [_state(replica_id, reports[replica_id], deployment.strategy, wanted) for replica_id in sorted(reports)]

    async def wait_for(self, deployment: Deployment, timeout_s: float, challenger: str = "") -> list[ReplicaState]:
        """Wait until all live replicas have swapped, at most `timeout_s`; returns how they stand then.

        With `challenger` also until each scores with that version, or says why it cannot.
        """
        deadline = time.monotonic() + timeout_s
        poll_s = _FIRST_POLL_S
        while True:
            states = await self.statuses(deployment)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or all(state.settled(deployment, challenger) for state in states):
                return states
            await asyncio.sleep(min(poll_s, left_s))
            poll_s = min(poll_s * 1.2, _SLOWEST_POLL_S)

    async def highest(self, strategy: str) -> int:
        """The highest generation of a strategy that a live replica serves; 0 when none does."""
        reports = await scripts.live_reports(self._redis)
        return max((_served(json.loads(report), strategy).generation for report in reports.values()), default=0)


def _served(document: Any, strategy: str) -> Served:
    return Served(*document["serving"].get(strategy, ()))


def _state(replica_id: str, report: bytes, strategy: str, wanted: set[Served]) -> ReplicaState:
    document = json.loads(report)
    served = _served(document, strategy)
    shadow = document.get("shadows", {}).get(strategy)  # none from a replica of an earlier version
    return ReplicaState(
        replica_id=replica_id,
        address=document["address"],
        generation=served.generation,
        swapped=served in wanted,
        error=document["errors"].get(strategy, ""),
        shadow=Shadow(*shadow) if shadow is not None else None,
    )
