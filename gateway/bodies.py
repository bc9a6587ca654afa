"""Read a request's body: counted while it arrives, parsed once, and every fault named by its field."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from gateway.problems import Problem
from runtime.errors import FieldViolation

_LISTED_AT_MOST = 20

Shape = TypeVar("Shape", bound=BaseModel)


async def read_body(request: Request, shape: type[Shape], max_bytes: int) -> Shape:
    """Read and check a JSON body, whatever content type was declared (curl's default is a form).

    Raises Problem: 413 for a body over the limit, 400 for one that is not JSON, 422 for one of another shape.
    """
    body = await read_counted(request, max_bytes)
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise _problem_of(error) from None


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


def too_large(detail: str) -> Problem:
    """413, with the limit in the detail."""
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, reason="BODY_TOO_LARGE")


def _problem_of(error: ValidationError) -> Problem:
    # Never the input itself: it may be large, and NaN is no JSON.
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {faults[0]['msg']}", reason="NOT_JSON")
    found = [FieldViolation(_path(fault["loc"]), fault["msg"]) for fault in faults[:_LISTED_AT_MOST]]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"{found[0].field}: {found[0].description}{more}",
        reason="INVALID_BODY",
        errors=found,
    )


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"
