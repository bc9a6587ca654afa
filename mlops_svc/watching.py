"""Watching deployments until the caller goes, or this server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from modelstore.deployments import Deployment, DeploymentStore
from modelstore.names import check_strategy
from runtime.errors import UnavailableError
from runtime.validation import Violations

T = TypeVar("T")


async def watch(
    deployments: DeploymentStore, strategy: str, stopping: asyncio.Event
) -> AsyncGenerator[Deployment, None]:
    """The present deployments, then each one as it changes; only those of one strategy unless it is empty.

    Raises InvalidInputError, and UnavailableError (SHUTTING_DOWN) when the event is set. Close it to stop early.
    """
    if strategy:
        violations = Violations()
        check_strategy(violations, "strategy", strategy)
        violations.raise_if_any()
    async with aclosing(_until(stopping, deployments.watch())) as changes:
        async for deployment in changes:
            if strategy in ("", deployment.strategy):
                yield deployment


async def _until(stopping: asyncio.Event, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        while True:
            item = asyncio.ensure_future(anext(items))
            try:
                await asyncio.wait({item, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not item.done():
                    item.cancel()
                    await asyncio.wait({item})
            if stopped.done():
                raise UnavailableError(
                    "this server is going away: watch again", reason="SHUTTING_DOWN", retry_after_s=1.0
                )
            yield item.result()
    finally:
        stopped.cancel()
        await items.aclose()
