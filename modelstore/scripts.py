"""Every atomic step of modelstore as one typed function over one Lua script (lua/)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelstore import keys
from runtime.lua import Scripts
from runtime.redis_client import Client

_LUA = Scripts(Path(__file__).with_name("lua"))

REMEMBERED_MS = 24 * 3600 * 1000
"""How long a request id is remembered."""

EVENTS_KEPT = 100_000
"""How many of the last events `mlops.events` holds, at least."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Answer of `change`: OK or REPEATED (`deployment` is the result), MOVED (it is the present one), REUSED."""

    status: Literal["OK", "REPEATED", "MOVED", "REUSED"]
    deployment: bytes = b""


async def change(
    redis: Client,
    strategy: str,
    *,
    seen: bytes,
    deployment: bytes,
    event: bytes,
    traceparent: str,
    request_id: str,
    request_digest: str,
) -> Changed:
    """Replace a deployment if it is still what the caller saw (empty: there was none), with its event."""
    key_names = (keys.DEPLOYMENTS, keys.EVENTS, keys.request(request_id), keys.CHANGED)
    arguments = (strategy, seen, deployment, event, traceparent, request_digest, REMEMBERED_MS, EVENTS_KEPT)
    answer = await _LUA.run(redis, "change", key_names, arguments)
    return Changed(answer[0].decode(), answer[1])


async def claim(redis: Client, request_id: str, request_digest: str) -> bool:
    """Remember a request; False when its id belongs to one of other content."""
    return bool(await _LUA.run(redis, "claim", (keys.request(request_id),), (request_digest, REMEMBERED_MS)))


async def report(redis: Client, replica_id: str, document: bytes, ttl_ms: int) -> None:
    """Keep a replica's report for `ttl_ms`; 0 forgets it."""
    await _LUA.run(redis, "report", (keys.REPLICAS, keys.REPORTS), (replica_id, document, ttl_ms))


async def live_reports(redis: Client) -> dict[str, bytes]:
    """Reports of the live replicas, by replica id."""
    answer = await _LUA.run(redis, "live_reports", (keys.REPLICAS, keys.REPORTS), ())
    return {answer[at].decode(): answer[at + 1] for at in range(0, len(answer), 2)}
