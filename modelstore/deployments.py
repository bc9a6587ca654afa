"""Deployments: which version a strategy serves. Every change is one compare-and-set, with its event, in one script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeAlias, cast

import structlog
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from modelstore import keys, requests, scripts
from modelstore.deployment import (
    Deployment,
    Transition,
    check_generation,
    promoted,
    rolled_back,
    shadowed,
    unshadowed,
)
from quantmesh.mlops.v1 import deployment_pb2
from runtime import telemetry, times, validation
from runtime.redis_client import Client

__all__ = ["Deployment", "DeploymentStore", "message_of"]

log = structlog.get_logger()

Suits: TypeAlias = Callable[[Deployment], Awaitable[None]]
"""Raises when the challenger of a deployment that is about to be stored does not suit its champion."""

_REREAD_S = 1.0
_RECONNECT_S = 0.1


class DeploymentStore:
    """Deployments in Redis. Methods raise what redis-py raises when the server is away."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    async def get(self, strategy: str) -> Deployment | None:
        """The deployment of a strategy; None before its first promotion."""
        return _decode_present(cast(bytes | None, await self._redis.hget(keys.DEPLOYMENTS, strategy)))

    async def all(self) -> list[Deployment]:
        """All deployments, sorted by strategy."""
        found = cast(dict[bytes, bytes], await self._redis.hgetall(keys.DEPLOYMENTS))
        deployments = []
        for strategy, state in found.items():
            try:
                deployments.append(_decode(state))
            except DecodeError as error:  # one that somebody else wrote must not stop the others
                log.error("no deployment, left out", strategy=strategy.decode(errors="replace"), error=str(error))
        return sorted(deployments, key=lambda deployment: deployment.strategy)

    async def promote(
        self,
        strategy: str,
        version: str,
        *,
        expected_generation: int | None,
        reason: str,
        request_id: str,
        floor: int = 0,
    ) -> Deployment:
        """Make a version the champion; the old champion becomes `previous`. Returns the deployment after it.

        Its generation is the next one above both the present one and `floor`, the highest that anybody is known to
        have seen. The same `request_id` with the same content returns the first result; an empty one is replaced by a
        new one. With `expected_generation` None the change is applied to whatever is there. Whether the version exists
        is for the caller to check. Raises FailedPreconditionError (STALE_GENERATION, ALREADY_CHAMPION),
        InvalidInputError (REQUEST_ID_REUSED).
        """
        return await self._change(
            strategy,
            lambda present: promoted(present, strategy, version),
            deployment_pb2.EVENT_TYPE_PROMOTED,
            expected_generation,
            reason,
            validation.request_id(request_id),
            requests.digest("promote", strategy, version, expected_generation, reason),
            floor,
        )

    async def rollback(
        self, strategy: str, *, expected_generation: int | None, reason: str, request_id: str, floor: int = 0
    ) -> Deployment:
        """Make the previous champion the champion again; otherwise as `promote`.

        Two rollbacks without `expected_generation` undo each other: whoever means to be rid of one champion passes
        the generation in which it was seen. Raises NotFoundError (UNKNOWN_STRATEGY), FailedPreconditionError
        (STALE_GENERATION, NO_PREVIOUS), InvalidInputError (REQUEST_ID_REUSED).
        """
        return await self._change(
            strategy,
            lambda present: rolled_back(present, strategy),
            deployment_pb2.EVENT_TYPE_ROLLED_BACK,
            expected_generation,
            reason,
            validation.request_id(request_id),
            requests.digest("rollback", strategy, expected_generation, reason),
            floor,
        )

    async def start_shadow(
        self,
        strategy: str,
        version: str,
        suits: Suits,
        *,
        expected_generation: int | None,
        reason: str,
        request_id: str,
        floor: int = 0,
    ) -> Deployment:
        """Make a version the challenger, in place of the one before; otherwise as `promote`.

        `suits` is asked of the deployment as it is to be, and what it raises is raised. Raises NotFoundError
        (UNKNOWN_STRATEGY), FailedPreconditionError (STALE_GENERATION, ALREADY_CHAMPION, ALREADY_CHALLENGER),
        InvalidInputError (REQUEST_ID_REUSED).
        """
        return await self._change(
            strategy,
            lambda present: shadowed(present, strategy, version),
            deployment_pb2.EVENT_TYPE_SHADOW_STARTED,
            expected_generation,
            reason,
            validation.request_id(request_id),
            requests.digest("start_shadow", strategy, version, expected_generation, reason),
            floor,
            suits,
        )

    async def stop_shadow(
        self, strategy: str, *, expected_generation: int | None, reason: str, request_id: str, floor: int = 0
    ) -> Deployment:
        """Take the challenger away; otherwise as `promote`.

        Raises NotFoundError (UNKNOWN_STRATEGY), FailedPreconditionError (STALE_GENERATION, NO_CHALLENGER),
        InvalidInputError (REQUEST_ID_REUSED).
        """
        return await self._change(
            strategy,
            lambda present: unshadowed(present, strategy),
            deployment_pb2.EVENT_TYPE_SHADOW_STOPPED,
            expected_generation,
            reason,
            validation.request_id(request_id),
            requests.digest("stop_shadow", strategy, expected_generation, reason),
            floor,
        )

    async def watch(self) -> AsyncGenerator[Deployment, None]:
        """The present deployments, then each one whenever it is another than before, for ever.

        Most often its generation has grown; it is lower, or the same with another champion, after Redis lost its last
        writes. States in between may be skipped, the last one never is. Whoever stops early closes it
        (`contextlib.aclosing`), which ends the subscription.
        """
        seen: dict[str, Deployment] = {}
        async with aclosing(self.snapshots()) as snapshots:
            async for present in snapshots:
                before, seen = seen, {deployment.strategy: deployment for deployment in present}
                for deployment in present:
                    if deployment != before.get(deployment.strategy):
                        yield deployment

    async def snapshots(self) -> AsyncGenerator[list[Deployment], None]:
        """All deployments, sorted by strategy: now, with every change, after Redis was away, and each second besides.

        The channel only says when to look. Close it to stop early, as `watch`.
        """
        away = False
        while True:
            _raise_if_cancelled()
            try:
                async with self._redis.pubsub() as changes:
                    await changes.subscribe(keys.CHANGED)  # before the first look, so that no change falls between
                    while True:
                        present = await self.all()
                        if away:
                            log.info("deployments are followed again")
                        away = False
                        yield present
                        _raise_if_cancelled()
                        await changes.get_message(ignore_subscribe_messages=True, timeout=_REREAD_S)
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("Redis is away: deployments are not followed until it is back", error=str(error))
                away = True
                await asyncio.sleep(_RECONNECT_S)

    async def _change(
        self,
        strategy: str,
        transition: Transition,
        event_type: deployment_pb2.EventType.ValueType,
        expected_generation: int | None,
        reason: str,
        request_id: str,
        request_digest: str,
        floor: int,
        suits: Suits | None = None,
    ) -> Deployment:
        known_digest, result, seen = await self._read(strategy, request_id)
        if known_digest:  # before the transition, which would refuse the repetition of a promote: it is champion by now
            if known_digest != request_digest.encode():
                raise requests.reused(request_id)
            return _decode(result)
        while True:
            present = _decode_present(seen)
            check_generation(strategy, present, expected_generation)
            step = transition(present)
            if suits is not None:
                await suits(step)
            after = replace(
                step,
                generation=max(present.generation if present else 0, floor) + 1,
                updated_at_us=times.now_us(),
                reason=reason,
            )
            message = message_of(after)
            event = deployment_pb2.DeploymentEvent(type=event_type, deployment=message, request_id=request_id)
            changed = await scripts.change(
                self._redis,
                strategy,
                seen=seen,
                deployment=message.SerializeToString(),
                event=event.SerializeToString(),
                traceparent=telemetry.current_traceparent(),
                request_id=request_id,
                request_digest=request_digest,
            )
            if changed.status == "REUSED":
                raise requests.reused(request_id)
            if changed.status != "MOVED":
                return _decode(changed.deployment)
            seen = changed.deployment  # somebody else was first: look again, and refuse if it matters to the caller

    async def _read(self, strategy: str, request_id: str) -> tuple[bytes, bytes, bytes]:
        """Digest and result of the request, if it was carried out before, and the deployment, of the same moment."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hmget(keys.request(request_id), ["digest", "deployment"])
            pipeline.hget(keys.DEPLOYMENTS, strategy)
            (known_digest, result), seen = await pipeline.execute()
        return known_digest or b"", result or b"", seen or b""


def _raise_if_cancelled() -> None:
    """Raise a cancellation that was lost: redis-py sends within asyncio.wait_for, which swallows one that comes as the
    send ends (gh-86296, mended in Python 3.12). A call that ends by itself need not care; one that never ends must."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def message_of(deployment: Deployment) -> deployment_pb2.Deployment:
    """The contract's message of a deployment: what is stored, and what callers are told."""
    return deployment_pb2.Deployment(
        strategy=deployment.strategy,
        champion_version=deployment.champion_version,
        previous_version=deployment.previous_version,
        generation=deployment.generation,
        updated_at=times.from_us(deployment.updated_at_us),
        reason=deployment.reason,
        challenger_version=deployment.challenger_version,
    )


def _decode(state: bytes) -> Deployment:
    message = deployment_pb2.Deployment.FromString(state)
    return Deployment(
        strategy=message.strategy,
        champion_version=message.champion_version,
        previous_version=message.previous_version,
        generation=message.generation,
        updated_at_us=times.to_us(message.updated_at),
        reason=message.reason,
        challenger_version=message.challenger_version,
    )


def _decode_present(state: bytes | None) -> Deployment | None:
    return _decode(state) if state else None
