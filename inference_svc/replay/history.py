"""What mlops_svc did, as far as `mlops.events` goes: the champions of each strategy, by generation, and since when."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from modelstore import keys
from quantmesh.mlops.v1 import deployment_pb2
from runtime.redis_client import Client
from runtime.times import to_us
from streams.keys import PAYLOAD

_PAGE = 1000

NEWS_US = 5_000_000
"""Within so long after a strategy's first promotion every replica has heard of it: until then it may miss a vector."""


class History:
    """The deployments that there were."""

    def __init__(self) -> None:
        self._champions: dict[tuple[str, int], set[str]] = {}
        self._first_us: dict[str, int] = {}
        self._generations: dict[str, list[tuple[int, str]]] = {}

    @classmethod
    async def read(cls, redis: Client) -> History:
        """Read the events that are still there."""
        history = cls()
        after = "-"
        while True:
            events: Any = await redis.xrange(keys.EVENTS, min=after, count=_PAGE)
            for _, fields in events:
                try:
                    event = deployment_pb2.DeploymentEvent.FromString(fields.get(PAYLOAD, b""))
                except DecodeError:  # somebody else's
                    continue
                history.add(event.deployment)
            if len(events) < _PAGE:
                return history
            after = f"({events[-1][0].decode()}"

    def add(self, deployment: deployment_pb2.Deployment) -> None:
        """Take in what was deployed."""
        strategy = deployment.strategy
        self._champions.setdefault((strategy, deployment.generation), set()).add(deployment.champion_version)
        self._first_us.setdefault(strategy, to_us(deployment.updated_at))
        self._generations.setdefault(strategy, []).append((deployment.generation, deployment.champion_version))

    @property
    def strategies(self) -> set[str]:
        """Those that were ever deployed."""
        return set(self._first_us)

    def contradicts(self, strategy: str, generation: int, digest: str) -> bool:
        """Whether a generation is known, and had another champion. It has two if Redis lost changes, and both count."""
        known = self._champions.get((strategy, generation))
        return known is not None and digest not in known

    def after(self, strategy: str, generation: int) -> list[str]:
        """The champions that a strategy had after a generation, each once, in their order."""
        later = (digest for number, digest in self._generations.get(strategy, ()) if number > generation)
        return list(dict.fromkeys(later))

    def expected_since_us(self, strategy: str) -> int | None:
        """From when on every vector of the strategy must have been scored by it; None when that is not known."""
        first = self._first_us.get(strategy)
        return None if first is None else first + NEWS_US
