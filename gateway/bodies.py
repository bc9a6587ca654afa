"""Read a request's body, counted while it arrives."""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from runtime.rest.bodies import parse, too_large

Shape = TypeVar("Shape", bound=BaseModel)


async def read_body(request: Request, shape: type[Shape], max_bytes: int) -> Shape:
    """Read and check a JSON body, whatever content type was declared (curl's default is a form).

    Raises Problem: 413 for a body over the limit, and what `parse` raises.
    """
    return parse(await read_counted(request, max_bytes), shape)


async def read_counted(request: Request, max_bytes: int) -> bytes:
    """Read a body as it is. Raises Problem: 413 for one over the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large(f"the body has {declared} bytes; at most {max_bytes} are allowed")
    body = bytearray()
    async for chunk in request.stream():  # without a declared length the count is all there is
        body += chunk
        if len(body) > max_bytes:
            raise too_large(f"the body has more than {max_bytes} bytes")
    return bytes(body)
