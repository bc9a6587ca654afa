"""Identity of mutating calls: a request id stands for one content, for a day."""

from __future__ import annotations

import json
from hashlib import sha256

from modelstore import scripts
from runtime.errors import InvalidInputError
from runtime.redis_client import Client


def digest(*content: str | int | None) -> str:
    """Digest of what a call asks for, its kind first."""
    return sha256(json.dumps(content).encode()).hexdigest()


def reused(request_id: str) -> InvalidInputError:
    """The error of an id that comes again with other content."""
    return InvalidInputError.of_field(
        "request_id",
        f"{request_id!r} was used within the last day for a call with other content: use a new id",
        reason="REQUEST_ID_REUSED",
    )


async def claim(redis: Client, request_id: str, *content: str | int | None) -> None:
    """Bind an id to a content, for a call that needs no stored answer because it is idempotent by content.

    Raises InvalidInputError (reason REQUEST_ID_REUSED) when the id is bound to another content.
    """
    if not await scripts.claim(redis, request_id, digest(*content)):
        raise reused(request_id)
