"""Rollout: win the compare-and-set, raise the fences, then wait for the replicas. In this order, always.

Once the fences are up, no partition takes a signal of the demoted model, whatever a slow replica does. The generation
is above every fence and every live replica's, not only above the present one: the deployment's state may have gone
back, when Redis lost its last writes, and a number that was used must not come again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog
from redis.exceptions import RedisError

from mlops_svc.fences import Standing
from modelstore.artifacts import ArtifactStore
from modelstore.deployment import Deployment, unknown_strategy
from modelstore.deployments import DeploymentStore
from modelstore.layouts import FeatureLayouts, check_columns
from modelstore.manifest import Manifest
from modelstore.names import check_digest, check_strategy
from modelstore.replicas import ReplicaBoard, ReplicaState
from runtime.errors import FailedPreconditionError
from runtime.validation import MAX_REQUEST_ID_CHARS, Violations

log = structlog.get_logger()

MAX_REASON_CHARS = 1024

Step: TypeAlias = Callable[[int], Awaitable[Deployment]]
"""Changes a deployment; the argument is the floor of its new generation."""


class Fences(Protocol):
    """What `mlops_svc.fences.Fences` does."""

    async def standing(self, strategy: str) -> Standing:
        """The lowest and the highest fence of a strategy."""

    async def put_up(self, strategy: str, generation: int) -> None:
        """Raise those that are lower. Idempotent."""


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

    @property
    def all_ready(self) -> bool:
        """True when every live replica scores with the challenger too."""
        return all(each.swapped and each.shadows(self.deployment.challenger_version) for each in self.replicas)


class Rollout:
    """Promotes and rolls back, starts and stops shadows."""

    def __init__(
        self,
        deployments: DeploymentStore,
        artifacts: ArtifactStore,
        replicas: ReplicaBoard,
        fences: Fences,
        layouts: FeatureLayouts,
    ) -> None:
        self._deployments = deployments
        self._artifacts = artifacts
        self._layouts = layouts
        self._replicas = replicas
        self._fences = fences
        self._behind: dict[str, int] = {}
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
        manifest = await asyncio.to_thread(self._check_artifact, change.strategy, version)
        await self._layouts.require(manifest.feature_set, manifest.feature_names)

        async def step(floor: int) -> Deployment:
            return await self._deployments.promote(
                change.strategy,
                version,
                expected_generation=change.expected_generation,
                reason=change.reason,
                request_id=change.request_id,
                floor=floor,
            )

        return await self._carry_out(change.strategy, step, started, wait_s)

    async def rollback(self, change: Change, wait_s: float) -> Outcome:
        """Make the previous champion the champion again; otherwise as `promote`.

        Raises InvalidInputError, and what DeploymentStore.rollback raises.
        """
        started = time.perf_counter()
        _check(change).raise_if_any()

        async def step(floor: int) -> Deployment:
            return await self._deployments.rollback(
                change.strategy,
                expected_generation=change.expected_generation,
                reason=change.reason,
                request_id=change.request_id,
                floor=floor,
            )

        return await self._carry_out(change.strategy, step, started, wait_s)

    async def start_shadow(self, change: Change, version: str, wait_s: float) -> Outcome:
        """Make a registered version the challenger; wait until the replicas score with it or cannot, at most `wait_s`.

        Raises InvalidInputError, NotFoundError (UNKNOWN_VERSION), FailedPreconditionError (WRONG_STRATEGY,
        ARTIFACT_CORRUPT, CHAMPION_COLUMNS_MISMATCH, and what DeploymentStore.start_shadow raises).
        """
        started = time.perf_counter()
        violations = _check(change)
        check_digest(violations, "version", version)
        violations.raise_if_any()
        manifest = await asyncio.to_thread(self._check_artifact, change.strategy, version)

        async def suits(deployment: Deployment) -> None:
            champion = await asyncio.to_thread(self._artifacts.get, deployment.champion_version)
            check_columns(manifest, champion.manifest)

        async def step(floor: int) -> Deployment:
            return await self._deployments.start_shadow(
                change.strategy,
                version,
                suits,
                expected_generation=change.expected_generation,
                reason=change.reason,
                request_id=change.request_id,
                floor=floor,
            )

        return await self._carry_out(change.strategy, step, started, wait_s, version)

    async def stop_shadow(self, change: Change, wait_s: float) -> Outcome:
        """Take the challenger away; otherwise as `rollback`.

        Raises InvalidInputError, and what DeploymentStore.stop_shadow raises.
        """
        started = time.perf_counter()
        _check(change).raise_if_any()

        async def step(floor: int) -> Deployment:
            return await self._deployments.stop_shadow(
                change.strategy,
                expected_generation=change.expected_generation,
                reason=change.reason,
                request_id=change.request_id,
                floor=floor,
            )

        return await self._carry_out(change.strategy, step, started, wait_s)

    async def standing(self, strategy: str) -> tuple[Deployment, list[ReplicaState]]:
        """A deployment and how its live replicas stand. Raises InvalidInputError, NotFoundError (UNKNOWN_STRATEGY)."""
        _check(Change(strategy)).raise_if_any()
        deployment = await self._deployments.get(strategy)
        if deployment is None:
            raise unknown_strategy(strategy)
        return deployment, await self._replicas.statuses(deployment)

    async def keep_fences(self) -> None:
        """Raise every fence that is behind its deployment: now, with every change, after Redis was away, and each
        second besides, for ever.

        It mends what a crash left between a compare-and-set and its fence, and fences that Redis has lost.
        """
        async with aclosing(self._deployments.snapshots()) as snapshots:
            async for deployments in snapshots:
                for deployment in deployments:
                    try:
                        await self._keep_fence(deployment)
                    except (RedisError, OSError) as error:  # the next snapshot comes when Redis is back
                        log.warning("fence not checked", strategy=deployment.strategy, error=str(error))
                        break

    async def settle(self) -> None:
        """Wait for changes whose callers have gone."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _check_artifact(self, strategy: str, version: str) -> Manifest:
        """Blocking. The bytes are read too: a model that no replica could load must not raise a fence."""
        manifest = self._artifacts.get(version).manifest
        if manifest.strategy != strategy:
            raise FailedPreconditionError(
                f"{version} was made for strategy {manifest.strategy!r}, not {strategy!r}",
                reason="WRONG_STRATEGY",
                field="strategy",
                metadata={"version": version, "strategy": manifest.strategy},
            )
        self._artifacts.load_onnx(version)
        return manifest

    async def _carry_out(
        self, strategy: str, step: Step, started: float, wait_s: float, challenger: str = ""
    ) -> Outcome:
        # A caller that goes away must not leave a new champion whose predecessor may still make signals.
        task = asyncio.create_task(self._change_and_fence(strategy, step))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        deployment = await asyncio.shield(task)
        replicas = await self._replicas.wait_for(deployment, wait_s, challenger)
        outcome = Outcome(deployment, replicas, (time.perf_counter() - started) * 1000)
        log.info(
            "deployment changed",
            strategy=deployment.strategy,
            generation=deployment.generation,
            champion=deployment.champion_version,
            challenger=deployment.challenger_version,
            not_swapped=[replica.replica_id for replica in replicas if not replica.swapped],
            elapsed_ms=round(outcome.elapsed_ms, 1),
        )
        return outcome

    async def _change_and_fence(self, strategy: str, step: Step) -> Deployment:
        standing = await self._fences.standing(strategy)
        deployment = await step(max(standing.highest, await self._replicas.highest(strategy)))
        await self._fences.put_up(strategy, deployment.generation)
        return deployment

    async def _keep_fence(self, deployment: Deployment) -> None:
        strategy = deployment.strategy
        standing = await self._fences.standing(strategy)
        if standing.lowest < deployment.generation:
            await self._fences.put_up(strategy, deployment.generation)
        if standing.highest > deployment.generation:
            # Most often a change is just under way: it comes before its fence, so look at it again.
            present = await self._deployments.get(strategy)
            if present is not None and present.generation < standing.highest != self._behind.get(strategy):
                self._behind[strategy] = standing.highest
                log.error(
                    "Redis has lost the last change of a deployment, but not its fence: no signals are made until you "
                    "promote or roll back",
                    strategy=strategy,
                    generation=present.generation,
                    fence=standing.highest,
                )


def _check(change: Change) -> Violations:
    violations = Violations()
    check_strategy(violations, "strategy", change.strategy)
    violations.text("reason", change.reason, max_chars=MAX_REASON_CHARS)
    violations.text("request_id", change.request_id, max_chars=MAX_REQUEST_ID_CHARS)
    return violations
