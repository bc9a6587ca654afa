"""Errors as RFC 9457 problem+json, and the one table from gRPC status to HTTP status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus

import grpc
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from runtime import telemetry
from runtime.errors import FieldViolation
from runtime.grpc_failure import Failure

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER_S = 1
"""When to come again while the inference service is away: it takes about so long to be restarted."""

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.CANCELLED: HTTPStatus.SERVICE_UNAVAILABLE,  # by the service, which is overloaded or going away
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
"""Every other gRPC status is 500."""

_OWN_WORDS = {
    HTTPStatus.TOO_MANY_REQUESTS: "the inference service has no room for this request now; try again",
    HTTPStatus.NOT_IMPLEMENTED: "the inference service does not know this call; is it of another version?",
    HTTPStatus.SERVICE_UNAVAILABLE: "the inference service cannot be reached for now; try again",
    HTTPStatus.GATEWAY_TIMEOUT: "the inference service did not answer in time",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal error; the log says more under this trace id",
}
"""What to say when an error is gRPC's own: its text names addresses and other inner things."""

_ROUTING_REASONS = {HTTPStatus.NOT_FOUND: "NO_SUCH_PATH", HTTPStatus.METHOD_NOT_ALLOWED: "METHOD_NOT_ALLOWED"}


class FieldProblem(BaseModel):
    """One field that is wrong."""

    field: str = Field(description="Path of the field, such as `features[3]`.")
    description: str = Field(description="What is wrong with it.")


class ProblemDetails(BaseModel):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str = Field(description="The HTTP status, in words.")
    status: int
    detail: str = Field(description="What went wrong, for people.")
    reason: str = Field(description="What went wrong, for programs: stable, in UPPER_SNAKE_CASE.")
    errors: list[FieldProblem] = Field(default=[], description="The fields that are wrong.")
    trace_id: str = Field(description="Trace to look for in logs and traces.")


class Problem(HTTPException):
    """An error with all that the caller is told. It is an HTTPException, which every layer lets through."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        reason: str,
        errors: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        headers = {} if retry_after_s is None else {"retry-after": str(max(1, math.ceil(retry_after_s)))}
        super().__init__(status, detail, headers)
        self.reason = reason
        self.errors = tuple(errors)


def internal_problem() -> Problem:
    """What a caller may know of a bug."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Problem(status, _OWN_WORDS[status], reason="INTERNAL")


def problem_of(failure: Failure) -> Problem:
    """The problem that a failed RPC is to a REST caller."""
    status = _HTTP_STATUS.get(failure.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    if status == HTTPStatus.TOO_MANY_REQUESTS and failure.reason and failure.retry_after_s is None:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE  # a limit of the request itself: to try again would not help
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return internal_problem()
    detail = failure.message if failure.reason else _OWN_WORDS.get(status, status.description)
    retry_after_s = failure.retry_after_s
    if retry_after_s is None and status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_s = RETRY_AFTER_S
    return Problem(
        status,
        detail,
        reason=failure.reason or failure.code.name,
        errors=failure.violations,
        retry_after_s=retry_after_s,
    )


def details_of(error: HTTPException) -> ProblemDetails:
    """What a caller is told; a plain HTTPException is one of routing, such as 404 or 405."""
    status = HTTPStatus(error.status_code)
    problem = error if isinstance(error, Problem) else None
    return ProblemDetails(
        title=status.phrase,
        status=status,
        detail=str(error.detail),
        reason=problem.reason if problem else _ROUTING_REASONS.get(status, status.name),
        errors=[FieldProblem(field=e.field, description=e.description) for e in problem.errors] if problem else [],
        trace_id=telemetry.trace_id_of(telemetry.current_traceparent()),
    )
