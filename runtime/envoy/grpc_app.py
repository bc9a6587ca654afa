"""gRPC as an ASGI application: unary methods, answered within Envoy.

Envoy has done the HTTP/2 work. What is left here is gRPC's frame of five bytes around a message, the status in
trailers, and errors with details as everywhere in the mesh. It is the hot path, so it is written flat: one read, one
call of the handler, three sends that need no waiting, and nothing that is made anew for each call if it can be made
once.

Messages come uncompressed, and deadlines are kept by Envoy (see `runtime.envoy.config`).
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeAlias
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import SpanKind

from runtime import telemetry
from runtime.errors import InvalidInputError, QuantmeshError, ResourceExhaustedError, UnavailableError
from runtime.grpc_calls import CallMetrics, failure, undecodable
from runtime.grpc_errors import DETAILS_TRAILER, to_status

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
Event: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], object]
Handler: TypeAlias = Callable[[Any, Any], Awaitable[Message]]

SWEEP_S = 0.05
"""Calls in flight for longer are looked after, so often: has the caller given up? The usual call is over before."""

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


class HotMethod:
    """A unary method that is answered here. Its handler takes the request and a `HotContext`."""

    __slots__ = ("handler", "metrics", "path", "read")

    def __init__(self, path: str, request_type: type[Message], handler: Handler) -> None:
        """`path` is that of HTTP, such as `/quantmesh.inference.v1.InferenceService/Predict`."""
        self.path = path
        self.read = request_type.FromString
        self.handler = handler
        self.metrics = CallMetrics(path)


class GrpcApp:
    """The ASGI application of some hot methods."""

    def __init__(self, methods: Sequence[HotMethod], max_message_bytes: int, max_calls: int) -> None:
        """`max_calls` may be in flight; more are refused at once, which costs a tenth of an answer."""
        self._methods = {method.path: method for method in methods}
        self._max_message_bytes = max_message_bytes
        self._max_calls = max_calls
        self._too_many = _status_alone(
            *failure(
                "",
                ResourceExhaustedError(
                    f"{max_calls} calls are in flight, and no more may be: try again later",
                    reason="TOO_MANY_CALLS",
                    retry_after_s=0.05,
                ),
            )
        )
        self._traced = telemetry.exported()
        # In order of arrival: the oldest call is the first.
        self._in_flight: dict[asyncio.Task[Any], tuple[float, Receive]] = {}
        self._gave_up: set[asyncio.Task[Any]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._draining = False

    async def drain(self, grace_s: float) -> None:
        """Refuse new calls with UNAVAILABLE, and wait for those in flight, up to the grace."""
        self._draining = True
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace_s)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one call. A send takes effect when it is called, so none is waited for."""
        started = time.perf_counter()
        method = self._methods[scope["path"]]
        if len(self._in_flight) >= self._max_calls:
            send(self._too_many)
            send(_NO_BODY)
            method.metrics.ended("RESOURCE_EXHAUSTED", started)
            return
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._in_flight[task] = started, receive
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())
        code = "CANCELLED"
        try:
            context, traceparent = _of_headers(scope["headers"], started)
            message = await self._message(receive)
            if message is None:  # the caller has gone
                return
            if self._draining:
                raise UnavailableError("this server is going away: try again", reason="DRAINING", retry_after_s=0.1)
            try:
                request = method.read(message)
            except DecodeError as error:
                raise undecodable(error) from error
            if self._traced or traceparent:
                with telemetry.span(method.path[1:], traceparent, SpanKind.SERVER, **{"rpc.system": "grpc"}):
                    response = await method.handler(request, context)
            else:  # nobody is to see a span
                response = await method.handler(request, context)
            payload = response.SerializeToString()
            send(_START)
            send({"type": "http.response.body", "body": b"\0" + len(payload).to_bytes(4, "big") + payload})
            send(_OK)
            code = "OK"
        except asyncio.CancelledError:
            if task not in self._gave_up:
                raise
        except Exception as error:
            told, status = failure(method.path, error)
            code = status.name
            send(_status_alone(told, status))
            send(_NO_BODY)
        finally:
            method.metrics.ended(code, started)
            del self._in_flight[task]
            self._gave_up.discard(task)

    async def _message(self, receive: Receive) -> bytes | None:
        """The one message of a call, without its frame; None when the caller has gone.

        Raises InvalidInputError (BAD_FRAME), ResourceExhaustedError (MESSAGE_TOO_LARGE).
        """
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body: bytes = event["body"]
        while event.get("more_body"):
            if len(body) >= _FRAME:
                self._check_size(body)
            event = await receive()
            if event["type"] == "http.disconnect":
                return None
            body += event["body"]
        if len(body) < _FRAME:
            raise InvalidInputError("the call has no message", reason="BAD_FRAME")
        length = int.from_bytes(body[1:_FRAME], "big")
        if body[0] or length != len(body) - _FRAME or length > self._max_message_bytes:
            self._check_size(body)
            what = "is marked as compressed without a grpc-encoding" if body[0] else "is not one whole message"
            raise InvalidInputError(f"what was sent {what}", reason="BAD_FRAME")
        return body[_FRAME:]

    def _check_size(self, body: bytes) -> None:
        length = max(int.from_bytes(body[1:_FRAME], "big"), len(body) - _FRAME)
        if length > self._max_message_bytes:
            raise ResourceExhaustedError(
                f"the message has {length} bytes; at most {self._max_message_bytes} are allowed",
                reason="MESSAGE_TOO_LARGE",
            )

    async def _sweep(self) -> None:
        """Look after calls that take long: one whose caller has given up is cancelled."""
        while self._in_flight:
            await asyncio.sleep(SWEEP_S)
            for task, receive in self._older_than(time.perf_counter() - SWEEP_S):
                event = await receive()  # of a caller that is there: an empty one
                if event["type"] == "http.disconnect" and task in self._in_flight:
                    self._gave_up.add(task)
                    task.cancel()

    def _older_than(self, before: float) -> list[tuple[asyncio.Task[Any], Receive]]:
        calls = takewhile(lambda call: call[1][0] < before, self._in_flight.items())
        return [(task, receive) for task, (_, receive) in calls]


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


def _status_alone(error: QuantmeshError, code: grpc.StatusCode) -> Event:
    """An answer that is a status alone: headers that are trailers too, as gRPC allows."""
    status = to_status(error)
    headers = [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", str(code.value[0]).encode()),
        (b"grpc-message", quote(status.message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()),
        (DETAILS_TRAILER.encode(), base64.b64encode(status.SerializeToString()).rstrip(b"=")),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _unpadded(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except ValueError:
        return value
