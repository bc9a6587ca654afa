"""What a client learns from a failed RPC: the status, and the google.rpc details that came with it.

The reverse of `runtime.grpc_errors`.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from runtime.errors import FieldViolation
from runtime.grpc_errors import DETAILS_TRAILER, DOMAIN


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed RPC. `reason` is empty when the error is gRPC's own, not one of our services'."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """Read the status and the details of an error."""
    message = error.details() or ""
    reason = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    for detail in _status(error).details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif detail.Unpack(bad_request):
            violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return Failure(error.code(), message, reason, violations, retry_after_s)


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()
