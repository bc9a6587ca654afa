"""What every listener does with a call, whatever transport brought it: count it, time it, and say what went wrong."""

from __future__ import annotations

import time

import grpc
import structlog
from google.protobuf.message import DecodeError

from runtime.errors import InvalidInputError, QuantmeshError, ResourceExhaustedError
from runtime.grpc_errors import domain_error, status_code
from runtime.hot_metrics import HotCounter, HotHistogram

log = structlog.get_logger()

RPCS = HotCounter("quantmesh_grpc_requests_total", "RPCs ended, by method and status.", ["method", "code"])
RPC_SECONDS = HotHistogram(
    "quantmesh_grpc_request_seconds",
    "Time of an RPC in the handler, seconds.",
    ["method"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)


class CallMetrics:
    """Counts and times the calls of one method; the usual outcome is looked up once."""

    __slots__ = ("_method", "_ok", "_seconds")

    def __init__(self, method: str) -> None:
        self._method = method
        self._ok = RPCS.labels(method, "OK")
        self._seconds = RPC_SECONDS.labels(method)

    def ended(self, code: str, started: float) -> None:
        """Note that a call that began at `time.perf_counter()` `started` has ended, with a status such as `OK`."""
        (self._ok if code == "OK" else RPCS.labels(self._method, code)).inc()
        self._seconds.observe(time.perf_counter() - started)


class InternalError(QuantmeshError):
    """What a caller may know of a bug."""

    def __init__(self) -> None:
        super().__init__("internal error; the service's log says more", reason="INTERNAL")


def too_many(why: str) -> ResourceExhaustedError:
    """The refusal of one call more than may be in flight."""
    return ResourceExhaustedError(f"{why}: try again later", reason="TOO_MANY_CALLS", retry_after_s=0.05)


def message_too_large(most_bytes: int) -> ResourceExhaustedError:
    """The refusal of a message that is too large."""
    return ResourceExhaustedError(
        f"the message is larger than the {most_bytes} bytes that are allowed", reason="MESSAGE_TOO_LARGE"
    )


def undecodable(error: DecodeError) -> InvalidInputError:
    """The error of bytes that are not a message of the method; gRPC itself would answer UNKNOWN."""
    return InvalidInputError(f"the request is not a message of this method: {error}", reason="UNDECODABLE")


def failure(method: str, error: Exception) -> tuple[QuantmeshError, grpc.StatusCode]:
    """What a caller is told of an exception, and under which status. A bug is logged, and told as INTERNAL."""
    known = domain_error(error)
    if known is not None:
        return known, status_code(known)
    log.error("RPC failed", method=method, exc_info=error)
    return InternalError(), grpc.StatusCode.INTERNAL
