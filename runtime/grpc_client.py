"""How every client of the mesh opens a gRPC channel: keepalive, size limits, and the trace carried along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import grpc.aio

from runtime import telemetry

_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC would send calls of the mesh, those to loopback too, through an `http_proxy` of the environment.
    ("grpc.enable_http_proxy", 0),
]


def _traced(details: grpc.aio.ClientCallDetails) -> Any:
    traceparent = telemetry.current_traceparent()
    if not traceparent:
        return details
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata["traceparent"] = traceparent
    return cast(Any, details)._replace(metadata=metadata)  # a namedtuple, as which it is not declared


class _TraceUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_traced(client_call_details), request)


def channel(address: str, max_message_bytes: int = 4 * 1024 * 1024) -> grpc.aio.Channel:
    """Open a plaintext channel to `host:port`. The traceparent of the current span goes with every unary call."""
    options = [
        *_OPTIONS,
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    return grpc.aio.insecure_channel(address, options=options, interceptors=[_TraceUnary()])
