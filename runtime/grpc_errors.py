"""The one table from domain error to gRPC status, and the google.rpc details that go with it.

Details follow google.rpc (error_details.proto): ErrorInfo with the stable reason always, BadRequest with the fields
that are wrong, RetryInfo when waiting helps. They travel in the `grpc-status-details-bin` trailer.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from runtime import errors
from runtime.redis_client import UNREACHABLE

DOMAIN = "quantmesh"
"""`ErrorInfo.domain` of every error."""

DETAILS_TRAILER = "grpc-status-details-bin"

_STATUS: dict[type[errors.QuantmeshError], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


def domain_error(error: Exception) -> errors.QuantmeshError | None:
    """The domain error that an exception is, or stands for; None for a bug.

    Redis being away is one, wherever it was noticed: no service need catch it to say so.
    """
    if isinstance(error, UNREACHABLE):
        return errors.UnavailableError(
            "Redis does not answer: try again, with the same ids", reason="REDIS_UNAVAILABLE", retry_after_s=1.0
        )
    return error if isinstance(error, errors.QuantmeshError) else None


def status_code(error: errors.QuantmeshError) -> grpc.StatusCode:
    """gRPC status of a domain error; INTERNAL for one that is in no class of the table."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.QuantmeshError) -> status_pb2.Status:
    """google.rpc.Status of a domain error."""
    details = [any_pb2.Any()]
    details[0].Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        details.append(any_pb2.Any())
        details[-1].Pack(bad_request)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_s * 1000))
        details.append(any_pb2.Any())
        details[-1].Pack(retry)
    code: int = status_code(error).value[0]
    return status_pb2.Status(code=code, message=error.message, details=details)
