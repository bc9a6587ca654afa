"""What every RPC of a grpcio server gets: a span, a deadline, metrics, and errors as google.rpc.Status.

A domain error becomes its status with details. Anything else is a bug: it is logged with its stack, and the caller
is told INTERNAL with a reason and nothing of the inside. Cancellation passes through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry.trace import SpanKind

from runtime import telemetry
from runtime.errors import DeadlineExceededError, QuantmeshError
from runtime.grpc_calls import CallMetrics, failure, undecodable
from runtime.grpc_errors import DETAILS_TRAILER, to_status


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

    def __init__(self, default_deadline_s: float) -> None:
        self._default_deadline_s = default_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:  # unknown method: gRPC answers UNIMPLEMENTED
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            # Health.Watch and reflection are gRPC's own and need none of this.
            if method.startswith("/grpc."):
                return handler
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
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with _observed(method, context):
                try:
                    if context.time_remaining() is not None:  # gRPC itself cancels at the caller's deadline
                        return await inner(_checked(request), context)
                    async with asyncio.timeout(self._default_deadline_s) as limit:
                        return await inner(_checked(request), context)
                except TimeoutError as error:
                    if context.time_remaining() is None and limit.expired():
                        late = DeadlineExceededError(f"not finished within the server's {self._default_deadline_s:g} s")
                        await _fail(method, context, late)
                    await _fail(method, context, error)
                except Exception as error:
                    await _fail(method, context, error)

        return call

    def _stream(
        self, method: str, inner: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with _observed(method, context):
                try:
                    async with aclosing(inner(_checked(request), context)) as responses:
                        async for response in responses:
                            yield response
                except Exception as error:
                    await _fail(method, context, error)

        return call


@contextmanager
def _observed(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
    traceparent = ""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            traceparent = value if isinstance(value, str) else value.decode("ascii", "replace")
    started = time.perf_counter()
    code = "CANCELLED"
    try:
        with telemetry.span(method.lstrip("/"), traceparent, SpanKind.SERVER, **{"rpc.system": "grpc"}):
            yield
        code = "OK"
    except Exception:
        number = context.code()  # as set by abort: the enum, or its number
        known = {status.value[0]: status for status in grpc.StatusCode}
        code = (number if isinstance(number, grpc.StatusCode) else known[int(number)]).name
        raise
    finally:
        CallMetrics(method).ended(code, started)


async def _fail(method: str, context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """Turn an exception into the RPC's status. Always raises."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    await _abort(context, *failure(method, error))


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: QuantmeshError, code: grpc.StatusCode) -> None:
    status = to_status(error)
    await context.abort(code, status.message, trailing_metadata=((DETAILS_TRAILER, status.SerializeToString()),))
