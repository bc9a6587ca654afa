"""How every client of the mesh opens a gRPC channel: keepalive, size limits, and the trace carried along.

A channel to several replicas balances by itself: each call goes to the next replica that says it is serving, and one
that a replica could not take is tried at another. docs/scale-out.md has the same for clients in other languages.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import grpc.aio

from runtime import telemetry
from runtime.errors import ConfigurationError

_INFERENCE = "quantmesh.inference.v1.InferenceService"

_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC would send calls of the mesh, those to loopback too, through an `http_proxy` of the environment.
    ("grpc.enable_http_proxy", 0),
]

_OPTIONS_OF_SEVERAL = [
    # A replica that hangs is found by nothing else. Servers take a ping more often than every 10 s for abuse.
    ("grpc.keepalive_time_ms", 12_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # gRPC also pings to measure bandwidth; while such a ping is out, which may be for a minute, it sends no other.
    ("grpc.http2.ping_timeout_ms", 3_000),
]

SERVICE_CONFIG: dict[str, Any] = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # Its server says when a replica leaves, and gRPC asks it no more. An overloaded or failing model is another matter.
    "healthCheckConfig": {"serviceName": _INFERENCE},
    "methodConfig": [
        {
            # What may be asked twice: a prediction changes nothing.
            "name": [{"service": _INFERENCE}, {"service": "grpc.health.v1.Health", "method": "Check"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 3,
                # A server that stops cancels the calls that it has not yet begun.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # The budget: each failed try costs a token, each call that succeeds brings a tenth; with half of them gone nothing
    # is tried again.
    "retryThrottling": {"maxTokens": 500, "tokenRatio": 0.1},
}
"""gRPC's service config for several replicas of inference_svc."""


def target(address: str) -> str:
    """What gRPC dials for `host:port`, or for the IP addresses `host:port,host:port`; gRPC's own targets as they are.

    Raises ConfigurationError (reason ADDRESS_INVALID).
    """
    if "," not in address:
        return address
    parts = [part.strip() for part in address.split(",") if part.strip()]
    versions = {_ip_version(part) for part in parts}
    if len(versions) != 1:
        raise _invalid(address, "mixes IPv4 and IPv6" if versions else "is empty")
    return f"ipv{versions.pop()}:{','.join(parts)}"


def is_several(address: str) -> bool:
    """Whether an address may stand for several servers: a list, or a name that DNS is asked for."""
    return "," in address or address.startswith("dns:")


def channel(address: str, max_message_bytes: int = 4 * 1024 * 1024) -> grpc.aio.Channel:
    """Open a plaintext channel to `host:port`. The traceparent of the current span goes with every unary call.

    `host:port,host:port` (IP addresses) and `dns:///name:port` are replicas of inference_svc, among which the channel
    balances (SERVICE_CONFIG). Raises ConfigurationError (reason ADDRESS_INVALID).
    """
    options: list[tuple[str, Any]] = [
        *_OPTIONS,
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    if is_several(address):
        several = dict(_OPTIONS_OF_SEVERAL)
        options = [option for option in options if option[0] not in several]
        options += [*_OPTIONS_OF_SEVERAL, ("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    return grpc.aio.insecure_channel(target(address), options=options, interceptors=[_TraceUnary()])


def _ip_version(part: str) -> int:
    try:
        host, port = urlsplit(f"//{part}").hostname, urlsplit(f"//{part}").port
        version = ipaddress.ip_address(host or "").version
    except ValueError:
        raise _invalid(part, "is not one") from None
    if port is None:
        raise _invalid(part, "has no port")
    return version


def _invalid(address: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{address!r} {why}: a list of addresses has an IP address and a port in each place, such as "
        "10.0.0.1:30061,10.0.0.2:30061; a name that stands for several addresses is dns:///name:port",
        reason="ADDRESS_INVALID",
    )


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
