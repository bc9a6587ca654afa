"""What every RPC of a grpcio server gets: a span, a deadline, metrics, and errors as google.rpc.Status.

A domain error becomes its status with details. Anything else is a bug: it is logged with its stack, and the caller
is told INTERNAL with a reason and nothing of the inside. Cancellation passes through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry.trace import Span, SpanKind

from runtime import telemetry
from runtime.errors import DeadlineExceededError, QuantmeshError
from runtime.grpc_calls import CallMetrics, failure, too_many, undecodable
from runtime.grpc_errors import DETAILS_TRAILER, to_status

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_END = object()


class _Undecodable:
    """What the deserializer gives in place of a message."""

    def __init__(self, error: DecodeError) -> None:
        self._error = error

    def raise_it(self) -> None:
        raise undecodable(self._error)


def _deserializer(inner: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if inner is None:
        return None

    def deserialize(data: bytes) -> Any:
        try:
            return inner(data)
        except DecodeError as error:
            return _Undecodable(error)

    return deserialize


async def _decoded(requests: AsyncIterable[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, _Undecodable):
            request.raise_it()
        yield request


def _checked(request: Any) -> Any:
    if isinstance(request, _Undecodable):
        request.raise_it()
    return _decoded(request) if isinstance(request, AsyncIterable) else request


class MeshInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler; see the module."""

    def __init__(self, default_deadline_s: float, max_calls: int) -> None:
        """`max_calls` may be under way at once, and as many streams of responses: idle watches take no call's room."""
        self._default_deadline_s = default_deadline_s
        self._calls = _Room("calls", max_calls)
        self._streams = _Room("streams", max_calls)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # None: an unknown method, which gRPC answers by UNIMPLEMENTED. Health and reflection are gRPC's own, and must
        # have an answer when nothing else has.
        if handler is None or method.startswith("/grpc."):
            return handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else None
            make = make or grpc.unary_stream_rpc_method_handler
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            wrapped: Any = self._stream(method, inner)
        else:
            make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else None
            make = make or grpc.unary_unary_rpc_method_handler
            inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
            wrapped = self._unary(method, inner)
        return make(wrapped, _deserializer(handler.request_deserializer), handler.response_serializer)

    def _unary(self, method: str, inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: Context) -> Any:
            with _observed(method, context, telemetry.span):
                try:
                    with self._calls:
                        return await self._in_time(inner, request, context)
                except Exception as error:
                    await _fail(method, context, error)

        return call

    async def _in_time(self, inner: Callable[..., Awaitable[Any]], request: Any, context: Context) -> Any:
        if context.time_remaining() is not None:  # gRPC itself cancels at the caller's deadline
            return await inner(_checked(request), context)
        try:
            async with asyncio.timeout(self._default_deadline_s) as limit:
                return await inner(_checked(request), context)
        except TimeoutError as error:
            if not limit.expired():
                raise
            late = f"not finished within the server's {self._default_deadline_s:g} s"
            raise DeadlineExceededError(late) from error

    def _stream(
        self, method: str, inner: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            with _observed(method, context, telemetry.detached_span) as span:
                try:
                    with self._streams:
                        async with aclosing(inner(_checked(request), context)) as responses:
                            while True:
                                with telemetry.within(span):
                                    response = await anext(responses, _END)
                                if response is _END:
                                    return
                                yield response
                except Exception as error:
                    await _fail(method, context, error)

        return call


class _Room:
    """How many may be under way at once."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._free = self._most = most

    def __enter__(self) -> None:
        if not self._free:
            raise too_many(f"{self._most} {self._what} are in flight, and no more may be")
        self._free -= 1

    def __exit__(self, *_: object) -> None:
        self._free += 1


@contextmanager
def _observed(method: str, context: Context, span: Callable[..., AbstractContextManager[Span]]) -> Iterator[Span]:
    traceparent = ""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            traceparent = value if isinstance(value, str) else value.decode("ascii", "replace")
    started = time.perf_counter()
    code = "CANCELLED"
    try:
        with span(method.lstrip("/"), traceparent, SpanKind.SERVER, **{"rpc.system": "grpc"}) as made:
            yield made
        code = "OK"
    except Exception:
        number = context.code()  # as set by abort: the enum, or its number
        known = {status.value[0]: status for status in grpc.StatusCode}
        code = (number if isinstance(number, grpc.StatusCode) else known[int(number)]).name
        raise
    finally:
        CallMetrics(method).ended(code, started)


async def _fail(method: str, context: Context, error: Exception) -> None:
    """Turn an exception into the RPC's status. Always raises."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    await _abort(context, *failure(method, error))


async def _abort(context: Context, error: QuantmeshError, code: grpc.StatusCode) -> None:
    status = to_status(error)
    await context.abort(code, status.message, trailing_metadata=((DETAILS_TRAILER, status.SerializeToString()),))
