"""The one table from domain error to gRPC status, and the google.rpc details that go with it.

Details follow google.rpc (error_details.proto): ErrorInfo with the stable reason always, BadRequest with the fields
that are wrong, RetryInfo when waiting helps. They travel in the `grpc-status-details-bin` trailer.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from runtime import errors
from runtime.redis_client import UNREACHABLE, refuses

DOMAIN = "quantmesh"
"""`ErrorInfo.domain` of every error."""

DETAILS_TRAILER = "grpc-status-details-bin"

_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""Of a grpc-message, all other characters but letters and digits are percent-encoded."""

_MOST_BYTES = 3500
"""Of a status: percent-encoded and in base64 it stays within the 8 KB of trailers that gRPC is sure to deliver."""

_MOST_OF_ONE = 600
"""Of the message, and of each part of the details, in bytes."""

_STATUS: dict[type[errors.QuantmeshError], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
}


def domain_error(error: Exception) -> errors.QuantmeshError | None:
    """The domain error that an exception is, or stands for; None for a bug.

    Redis being away is one, wherever it was noticed: no service need catch it to say so.
    """
    if isinstance(error, UNREACHABLE):
        return errors.UnavailableError(
            "Redis does not answer: try again, with the same ids", reason="REDIS_UNAVAILABLE", retry_after_s=1.0
        )
    if refuses(error):
        return errors.UnavailableError(
            f"Redis takes no writes for now: {error}", reason="REDIS_REFUSES_WRITES", retry_after_s=1.0
        )
    return error if isinstance(error, errors.QuantmeshError) else None


def status_code(error: errors.QuantmeshError) -> grpc.StatusCode:
    """gRPC status of a domain error; INTERNAL for one that is in no class of the table."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.QuantmeshError) -> status_pb2.Status:
    """google.rpc.Status of a domain error, cut to what fits into the trailers of an answer (_MOST_BYTES)."""
    details = [any_pb2.Any()]
    metadata = {name: _cut(value, _MOST_OF_ONE) for name, value in error.metadata.items()}
    details[0].Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.violations:
        bad_request = error_details_pb2.BadRequest()
        left = _MOST_BYTES - 2 * _MOST_OF_ONE - details[0].ByteSize()  # the message is sent twice
        for violation in error.violations:
            listed = error_details_pb2.BadRequest.FieldViolation(
                field=_cut(violation.field, _MOST_OF_ONE), description=_cut(violation.description, _MOST_OF_ONE)
            )
            left -= listed.ByteSize()
            if left < 0 and bad_request.field_violations:
                break
            bad_request.field_violations.append(listed)
        details.append(any_pb2.Any())
        details[-1].Pack(bad_request)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(any_pb2.Any())
        details[-1].Pack(retry)
    code: int = status_code(error).value[0]
    return status_pb2.Status(code=code, message=_cut(error.message, _MOST_OF_ONE), details=details)


def to_headers(error: errors.QuantmeshError) -> list[tuple[str, str]]:
    """Status, message and details of a domain error as they stand in HTTP/2 headers or trailers."""
    status = to_status(error)
    return [
        ("grpc-status", str(status.code)),
        ("grpc-message", quote(status.message, safe=_PLAIN)),
        (DETAILS_TRAILER, base64.b64encode(status.SerializeToString()).rstrip(b"=").decode()),
    ]


def _cut(text: str, most_bytes: int) -> str:
    """A text of at most so many bytes of UTF-8."""
    data = text.encode()
    if len(data) <= most_bytes:
        return text
    return data[: most_bytes - len("…".encode())].decode(errors="ignore") + "…"
