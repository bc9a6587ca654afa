"""Rollout: win the compare-and-set, raise the fences, then wait for the replicas. In this order, always.

Once the fences are up, no partition takes a signal of the demoted model, whatever a slow replica does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog

from modelstore.artifacts import ArtifactStore
from modelstore.deployments import Deployment, DeploymentStore, unknown_strategy
from modelstore.names import check_digest, check_strategy
from modelstore.replicas import ReplicaBoard, ReplicaState
from runtime.errors import FailedPreconditionError
from runtime.redis_client import AWAY
from runtime.validation import Violations

log = structlog.get_logger()

MAX_REASON_CHARS = 1024
MAX_REQUEST_ID_CHARS = 128

_RETRY_S = 0.2

RaiseFences: TypeAlias = Callable[[str, int], Awaitable[None]]
"""Makes every partition refuse signals of a strategy made under an older generation. Idempotent."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a call asks to change, beside the version."""

    strategy: str
    expected_generation: int | None = None
    reason: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A deployment after a change, and how its live replicas stand."""

    deployment: Deployment
    replicas: list[ReplicaState]
    elapsed_ms: float

    @property
    def all_swapped(self) -> bool:
        """True when every live replica serves the generation, also when there is none."""
        return all(replica.swapped for replica in self.replicas)


class Rollout:
    """Promotes and rolls back."""

    def __init__(
        self, deployments: DeploymentStore, artifacts: ArtifactStore, replicas: ReplicaBoard, raise_fences: RaiseFences
    ) -> None:
        self._deployments = deployments
        self._artifacts = artifacts
        self._replicas = replicas
        self._raise_fences = raise_fences
        self._under_way: set[asyncio.Task[Deployment]] = set()

    async def promote(self, change: Change, version: str, wait_s: float) -> Outcome:
        """Make a registered version the champion; wait for the replicas, at most `wait_s`.

        Raises InvalidInputError, NotFoundError (UNKNOWN_VERSION), FailedPreconditionError (WRONG_STRATEGY,
        ARTIFACT_CORRUPT, and what DeploymentStore.promote raises).
        """
        started = time.perf_counter()
        violations = _check(change)
        check_digest(violations, "version", version)
        violations.raise_if_any()
        await asyncio.to_thread(self._check_artifact, change.strategy, version)
        changed = self._deployments.promote(
            change.strategy,
            version,
            expected_generation=change.expected_generation,
            reason=change.reason,
            request_id=change.request_id,
        )
        return await self._carry_out(changed, started, wait_s)

    async def rollback(self, change: Change, wait_s: float) -> Outcome:
        """Make the previous champion the champion again; otherwise as `promote`.

        Raises InvalidInputError, and what DeploymentStore.rollback raises.
        """
        started = time.perf_counter()
        _check(change).raise_if_any()
        changed = self._deployments.rollback(
            change.strategy,
            expected_generation=change.expected_generation,
            reason=change.reason,
            request_id=change.request_id,
        )
        return await self._carry_out(changed, started, wait_s)

    async def standing(self, strategy: str) -> tuple[Deployment, list[ReplicaState]]:
        """A deployment and how its live replicas stand. Raises InvalidInputError, NotFoundError (UNKNOWN_STRATEGY)."""
        _check(Change(strategy)).raise_if_any()
        deployment = await self._deployments.get(strategy)
        if deployment is None:
            raise unknown_strategy(strategy)
        return deployment, await self._replicas.statuses(strategy, deployment.generation)

    async def keep_fences(self) -> None:
        """Raise the fence of every deployment there is, then with every change, for ever.

        It mends what a crash or Redis going away left between a compare-and-set and its fence.
        """
        async with aclosing(self._deployments.watch()) as changes:
            async for deployment in changes:
                await self._raise_until_done(deployment)

    async def settle(self) -> None:
        """Wait for changes whose callers have gone."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _check_artifact(self, strategy: str, version: str) -> None:
        """Blocking. The bytes are read too: a model that no replica could load must not raise a fence."""
        made_for = self._artifacts.get(version).manifest.strategy
        if made_for != strategy:
            raise FailedPreconditionError(
                f"{version} was made for strategy {made_for!r}, not {strategy!r}",
                reason="WRONG_STRATEGY",
                metadata={"version": version, "strategy": made_for},
            )
        self._artifacts.load_onnx(version)

    async def _carry_out(self, changed: Coroutine[Any, Any, Deployment], started: float, wait_s: float) -> Outcome:
        # A caller that goes away must not leave a new champion whose predecessor may still make signals.
        task = asyncio.create_task(self._change_and_fence(changed))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        deployment = await asyncio.shield(task)
        replicas = await self._replicas.wait_for(deployment.strategy, deployment.generation, wait_s)
        outcome = Outcome(deployment, replicas, (time.perf_counter() - started) * 1000)
        log.info(
            "deployment changed",
            strategy=deployment.strategy,
            generation=deployment.generation,
            champion=deployment.champion_version,
            not_swapped=[replica.replica_id for replica in replicas if not replica.swapped],
            elapsed_ms=round(outcome.elapsed_ms, 1),
        )
        return outcome

    async def _change_and_fence(self, changed: Coroutine[Any, Any, Deployment]) -> Deployment:
        deployment = await changed
        await self._raise_fences(deployment.strategy, deployment.generation)
        return deployment

    async def _raise_until_done(self, deployment: Deployment) -> None:
        while True:
            try:
                await self._raise_fences(deployment.strategy, deployment.generation)
                return
            except AWAY as error:
                log.warning("fence not raised yet: Redis is away", strategy=deployment.strategy, error=str(error))
                await asyncio.sleep(_RETRY_S)


def _check(change: Change) -> Violations:
    violations = Violations()
    check_strategy(violations, "strategy", change.strategy)
    violations.text("reason", change.reason, max_chars=MAX_REASON_CHARS)
    violations.text("request_id", change.request_id, max_chars=MAX_REQUEST_ID_CHARS)
    return violations
