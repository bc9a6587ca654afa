"""The connections of `redis_client`: redis-py's own, with errors by which a caller can tell that a server is away, and
with commands that hiredis encodes."""

from __future__ import annotations

import re
from operator import length_hint
from typing import Any

import hiredis
from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection

# Redis 6.2 has the code at the end of a script's error, where redis-py does not look; the last two it does not know.
_NOT_NOW = re.compile(r"\b(?:READONLY|NOREPLICAS|UNBLOCKED) ")

_SAME = frozenset((str, bytes, int, float))
"""Types that hiredis encodes as redis-py does; their subclasses, and other types, not always."""

_MAX_BYTES = 256 * 1024
"""hiredis copies each argument four times. Beyond about this much in a command, the copies are in pages that the kernel
gives and takes back each time, and redis-py is faster: it hands large arguments on as they are."""


class NotNowError(exceptions.ResponseError):
    """The server takes no writes for now: it is, or just became, a replica, or has too few of them."""


class _Telling:
    """Tells what is away by its own error."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Encode a command: by hiredis where it makes the same bytes, in a fifth of the time. redis-py lets it do so on
        its other connections, not on those of asyncio."""
        if type(args[0]) is str and _SAME.issuperset(map(type, args)) and sum(map(length_hint, args)) <= _MAX_BYTES:
            return [hiredis.pack_command((*args[0].encode().split(), *args[1:]))]
        return super().pack_command(*args)  # type: ignore[misc, no-any-return]

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().send_packed_command(*args, **kwargs)  # type: ignore[misc]
        except (AttributeError, RuntimeError) as error:
            raise _closed() from error

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except exceptions.ResponseError as error:
            if _NOT_NOW.search(str(error)):
                raise NotNowError(str(error)) from error
            raise
        except AttributeError as error:
            raise _closed() from error


def _closed() -> exceptions.ConnectionError:
    """When a node fails, redis-py's cluster client closes the connections to it, those in use at that moment too: who
    uses one meets an AttributeError, or the RuntimeError of a uvloop transport whose handler is closed."""
    return exceptions.ConnectionError("the connection was closed meanwhile")


class Plain(_Telling, Connection):
    """In the clear."""


class Tls(_Telling, SSLConnection):
    """By TLS."""


class MasterPlain(_Telling, SentinelManagedConnection):
    """To the master that Sentinels name."""


class MasterTls(_Telling, SentinelManagedConnection, SSLConnection):
    """The same by TLS."""
