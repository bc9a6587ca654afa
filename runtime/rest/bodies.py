"""Parse a body once, and name every fault by its field."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from runtime.errors import FieldViolation
from runtime.rest.problems import Problem

_LISTED_AT_MOST = 20

Shape = TypeVar("Shape", bound=BaseModel)


def parse(body: bytes, shape: type[Shape]) -> Shape:
    """Read a JSON body. Raises Problem: 400 for one that is not JSON, 422 for one of another shape."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise _problem_of(error) from None


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
