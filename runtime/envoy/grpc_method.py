"""A unary gRPC method that is answered within Envoy.

gRPC's frame of five bytes around a message, the status in trailers, and errors with details as everywhere in the mesh.
Messages come uncompressed (see `runtime.envoy.config`).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import SpanKind

from runtime import telemetry
from runtime.envoy.hot_app import Answer, Event, Headers
from runtime.errors import InvalidInputError
from runtime.grpc_calls import CallMetrics, failure, message_too_large, undecodable
from runtime.grpc_errors import to_headers

Handler: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
"""Takes the request and a `HotContext`; gives the response."""

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_NO_BODY = {"type": "http.response.body", "body": b""}

_FRAME = 5
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class HotContext:
    """What a handler may ask of its call: the part of grpcio's context that needs no transport."""

    __slots__ = ("_deadline", "_headers")

    def __init__(self, headers: Headers, deadline: float | None) -> None:
        """`deadline` is in seconds of `time.perf_counter()`."""
        self._headers = headers
        self._deadline = deadline

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        return None if self._deadline is None else self._deadline - time.perf_counter()

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The caller's metadata; values of keys that end in `-bin` are bytes."""
        return [
            (key.decode("ascii", "replace"), _unpadded(value) if key.endswith(b"-bin") else value.decode("latin-1"))
            for key, value in self._headers
        ]


class GrpcMethod:
    """A `runtime.envoy.hot_app.HotMethod`."""

    __slots__ = ("_handler", "_max_message_bytes", "_metrics", "_read", "_traced", "path")

    def __init__(self, path: str, request_type: type[Message], handler: Handler, max_message_bytes: int) -> None:
        self.path = path
        self._read = request_type.FromString
        self._handler = handler
        self._max_message_bytes = max_message_bytes
        self._metrics = CallMetrics(path)
        self._traced = telemetry.exported()

    def check_size(self, body: bytes) -> None:
        """Raise ResourceExhaustedError (MESSAGE_TOO_LARGE), also for a frame that only says that it will be."""
        length = max(int.from_bytes(body[1:_FRAME], "big"), len(body) - _FRAME)
        if length > self._max_message_bytes:
            raise message_too_large(self._max_message_bytes)

    async def answer(self, scope: Event, body: bytes, started: float) -> Answer:
        """Raises InvalidInputError (BAD_FRAME, BAD_TIMEOUT, UNDECODABLE), what the handler and `check_size` raise."""
        context, traceparent = _of_headers(scope["headers"], started)
        try:
            request = self._read(self._unframed(body))
        except DecodeError as error:
            raise undecodable(error) from error
        if self._traced or traceparent:
            with telemetry.span(self.path[1:], traceparent, SpanKind.SERVER, **{"rpc.system": "grpc"}):
                response = await self._handler(request, context)
        else:  # nobody is to see a span
            response = await self._handler(request, context)
        payload = response.SerializeToString()
        framed = {"type": "http.response.body", "body": b"\0" + len(payload).to_bytes(_FRAME - 1, "big") + payload}
        return (_START, framed, _OK), "OK"

    def _unframed(self, body: bytes) -> bytes:
        """The one message of a call, without its frame."""
        if len(body) < _FRAME:
            raise InvalidInputError("the call has no message", reason="BAD_FRAME")
        length = int.from_bytes(body[1:_FRAME], "big")
        if body[0] or length != len(body) - _FRAME or length > self._max_message_bytes:
            self.check_size(body)
            what = "is marked as compressed without a grpc-encoding" if body[0] else "is not one whole message"
            raise InvalidInputError(f"what was sent {what}", reason="BAD_FRAME")
        return body[_FRAME:]

    def refusal(self, error: Exception) -> Answer:
        """A status alone: headers that are trailers too, as gRPC allows."""
        told, code = failure(self.path, error)
        headers = [(b"content-type", b"application/grpc")]
        headers += [(name.encode(), value.encode()) for name, value in to_headers(told)]
        return ({"type": "http.response.start", "status": 200, "headers": headers}, _NO_BODY), code.name

    def ended(self, _scope: Event, status: str | None, started: float) -> None:
        """Count a call."""
        self._metrics.ended(status or "CANCELLED", started)


def _of_headers(headers: Headers, now: float) -> tuple[HotContext, str]:
    """Context and traceparent of a call. Raises InvalidInputError (BAD_TIMEOUT)."""
    deadline, traceparent = None, ""
    for key, value in headers:
        if key == b"grpc-timeout":
            deadline = now + _seconds(value)
        elif key == b"traceparent":
            traceparent = value.decode("ascii", "replace")
    return HotContext(headers, deadline), traceparent


def _seconds(timeout: bytes) -> float:
    """A grpc-timeout: up to eight digits and a unit, such as `250m`."""
    digits, unit = timeout[:-1], timeout[-1:]
    if not (1 <= len(digits) <= 8 and digits.isdigit() and unit in _UNITS_S):
        raise InvalidInputError.of_field(
            "grpc-timeout",
            f"is {timeout[:20].decode('latin-1')!r}; must be 1 to 8 digits and one of H, M, S, m, u, n",
            reason="BAD_TIMEOUT",
        )
    return int(digits) * _UNITS_S[unit]


def _unpadded(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except ValueError:
        return value
