"""How every process connects to Redis, and how it waits for one that is not there yet."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

import structlog
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from runtime.errors import UnavailableError

log = structlog.get_logger()

UNREACHABLE: tuple[type[Exception], ...] = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
)
"""What a command raises when the server cannot be reached, or is not ready to answer yet."""

AWAY: tuple[type[Exception], ...] = (*UNREACHABLE, OSError)
"""The same for whoever opens connections too: a name that does not resolve is a bare OSError."""


def connect(url: str, *, socket_timeout_s: float | None = 5.0) -> Redis:
    """Make a client; nothing is sent yet. Replies are bytes.

    A call that fails to reach the server is tried twice more within half a second: every write of this project is
    safe to repeat, because its script recognises what it has done already.
    """
    return Redis.from_url(
        url,
        decode_responses=False,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=2.0,
        retry=Retry(ExponentialWithJitterBackoff(cap=0.25, base=0.05), 2),
        retry_on_error=[exceptions.ConnectionError, exceptions.TimeoutError],
        health_check_interval=0,
    )


def without_password(url: str) -> str:
    """The URL as it may be logged."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


async def wait_for_redis(client: Redis, url: str, wait_s: float) -> None:
    """Return when Redis answers a PING.

    Raises UnavailableError (reason REDIS_UNAVAILABLE) when it has not after `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            await client.ping()
            return
        except (exceptions.RedisError, OSError) as error:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise UnavailableError(
                    f"Redis at {without_password(url)} did not answer within {wait_s:g} s ({error}): start it, "
                    "or set QUANTMESH_REDIS_URL; QUANTMESH_REDIS_WAIT_S sets how long to wait",
                    reason="REDIS_UNAVAILABLE",
                ) from error
            if not told:
                log.warning("waiting for Redis", url=without_password(url), limit_s=wait_s, error=str(error))
                told = True
            await asyncio.sleep(min(0.2, left_s))
