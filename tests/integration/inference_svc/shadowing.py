"""A champion with a challenger, and the pairs that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redis.asyncio import Redis

from modelstore.deployments import Deployment, DeploymentStore
from modelstore.replicas import ReplicaBoard, Shadow
from quantmesh.streams.v1.shadow_pair_pb2 import ShadowPair
from streams import keys, load_catalog
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
STRATEGY = "momentum"


async def promote(deployments: DeploymentStore, version: str, strategy: str = STRATEGY) -> Deployment:
    return await deployments.promote(strategy, version, expected_generation=None, reason="", request_id="")


async def _suits(deployment: Deployment) -> None:
    """mlops_svc looks at the columns; here they are whatever the test has made them."""


async def start_shadow(deployments: DeploymentStore, version: str, strategy: str = STRATEGY) -> Deployment:
    return await deployments.start_shadow(strategy, version, _suits, expected_generation=None, reason="", request_id="")


async def stop_shadow(deployments: DeploymentStore, strategy: str = STRATEGY) -> Deployment:
    return await deployments.stop_shadow(strategy, expected_generation=None, reason="", request_id="")


async def pairs(redis: Redis, strategy: str = STRATEGY) -> list[ShadowPair]:
    """All pairs of a strategy, in the order of each partition."""
    return [
        ShadowPair.FromString(fields[keys.PAYLOAD])
        for partition in range(CATALOG.partitions)
        for _, fields in await redis.xrange(keys.entries(f"shadow.{strategy}", partition))
    ]


async def until_pairs(redis: Redis, count: int, strategy: str = STRATEGY, limit_s: float = 20.0) -> list[ShadowPair]:
    """The pairs, once there are so many."""
    found: list[ShadowPair] = []

    async def enough() -> bool:
        nonlocal found
        found = await pairs(redis, strategy)
        return len(found) >= count

    await until(enough, limit_s)
    assert len(found) == count
    return found


class Standing:
    """How the one replica stands with the challenger of the strategy, by its report."""

    def __init__(self, redis: Redis) -> None:
        self._board = ReplicaBoard(redis)
        self._deployments = DeploymentStore(redis)

    async def now(self) -> Shadow | None:
        deployment = await self._deployments.get(STRATEGY)
        assert deployment is not None
        states = await self._board.statuses(deployment)  # none of a replica that could not report in time
        return states[0].shadow if states and states[0].swapped else None

    async def ready(self, version: str) -> None:
        async def is_ready() -> bool:
            shadow = await self.now()
            return shadow is not None and shadow.ready and shadow.challenger_version == version

        await until(is_ready, 30)

    async def error(self) -> str:
        async def is_told() -> bool:
            shadow = await self.now()
            return shadow is not None and bool(shadow.error)

        await until(is_told, 30)
        shadow = await self.now()
        assert shadow is not None
        assert not shadow.ready
        return shadow.error

    async def counted(self, count: int) -> Shadow:
        """Once so many rows are scored or dropped; more never are."""
        found: Shadow | None = None

        async def all_of_them() -> bool:
            nonlocal found
            found = await self.now()
            return found is not None and found.rows_scored + found.rows_dropped >= count

        await until(all_of_them, 30)
        assert found is not None
        assert found.rows_scored + found.rows_dropped == count
        return found


def identities(found: Sequence[ShadowPair]) -> set[tuple[str, int]]:
    return {(pair.request_id, pair.row) for pair in found}


def shadow_process(replica: int) -> int | None:
    """Process id of the shadow process below a replica's; None while it is down."""
    parents: dict[int, int] = {}
    shadows = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        state, parent = status.rpartition(")")[2].split()[:2]
        parents[int(folder.name)] = int(parent)
        if b"inference_svc.shadow" in command.split(b"\0") and state != "Z":
            shadows.append(int(folder.name))
    for shadow in shadows:
        pid = shadow
        while pid := parents.get(pid, 0):
            if pid == replica:
                return shadow
    return None
