"""Envoy's configuration for one public port: hot calls to the Python within, all others to the gRPC server behind.

Pure: a configuration is JSON values, as Envoy's v3 API documents them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.envoy import bodies, limit
from runtime.envoy.local_replies import local_replies
from runtime.envoy.values import FILTERS, PUBLIC, TYPES, Json, connection_manager, pipe, router, socket

FILTER = "python"

REST_LIMIT_S = 60
"""How long a REST request may take to arrive and to be answered."""

_BEHIND = "behind"

_STREAMS_FOR_EACH_CALL = 4
"""Streams of one connection, for each call that may be in flight over all."""


@dataclass(frozen=True, slots=True)
class Front:
    """What listens (on an IP address), and where calls go.

    The ASGI application `app` (`module:attribute`) answers `grpc_paths` when they are plain gRPC: POST, and not
    compressed; and `rest_paths`, whatever comes. `behind` is the Unix socket of the gRPC server that answers all else.
    At most `max_concurrent_calls` are with the application at once, and fewer while answers take too long for the
    objective.
    """

    host: str
    port: int
    grpc_paths: Sequence[str]
    rest_paths: Sequence[str]
    app: str
    module: Path
    behind: Path
    admin: Path
    max_message_bytes: int
    max_concurrent_calls: int
    objective_ms: float


def configuration(front: Front) -> Json:
    """The whole bootstrap configuration."""
    return {
        "admin": {"address": pipe(front.admin, mode=0o600)},
        "static_resources": {"listeners": [_listener(front)], "clusters": [_cluster(front)]},
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    # The listeners' own limits hold; without this, Envoy warns at each start that there is none here.
                    "static_layer": {"overload": {"global_downstream_max_connections": 50_000}},
                }
            ]
        },
    }


def _listener(front: Front) -> Json:
    return {
        "name": PUBLIC,
        "address": socket(front.host, front.port),
        # Two servers must not share a port in silence and split its calls.
        "enable_reuse_port": False,
        # A message must fit into the buffer of its stream while Python is busy.
        "per_connection_buffer_limit_bytes": 2 * front.max_message_bytes,
        "filter_chains": [{"filters": [_connection_manager(front)]}],
    }


def _connection_manager(front: Front) -> Json:
    host = {
        "name": "all",
        "domains": ["*"],
        "routes": _routes(front),
        # A body is whole before Python is told of it.
        "request_body_buffer_limit": 2 * front.max_message_bytes,
    }
    return connection_manager(
        PUBLIC,
        "AUTO",
        # What is refused must reach the filter that refuses it.
        max_streams=_STREAMS_FOR_EACH_CALL * front.max_concurrent_calls,
        host=host,
        filters=[*_hot_filters(front), router()],
        replies=local_replies(front.max_message_bytes),
    )


def _hot_filters(front: Front) -> list[Json]:
    # A request counts as in flight once it is whole: callers that send slowly take nobody's room.
    return [bodies.bodies(), limit.limit(front.max_concurrent_calls, front.objective_ms), _python(front)]


def _routes(front: Front) -> list[Json]:
    # The deadline of a call is kept here, at no cost to Python: DEADLINE_EXCEEDED when it passes.
    answered: Json = {"cluster": _BEHIND, "timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}
    plain = [
        {"name": ":method", "string_match": {"exact": "POST"}},
        {"name": "content-type", "string_match": {"prefix": "application/grpc"}},
        {"name": "te", "string_match": {"exact": "trailers"}},
    ]
    not_grpc: Json = {"name": "content-type", "string_match": {"prefix": "application/grpc"}, "invert_match": True}
    uncompressed: list[Json] = [
        {"name": "grpc-encoding", "present_match": True, "invert_match": True},
        {"name": "grpc-encoding", "string_match": {"exact": "identity"}},
    ]
    routes = [
        {"match": {"path": path, "headers": [*plain, encoding]}, "route": answered}
        for path in front.grpc_paths
        for encoding in uncompressed
    ]
    within = {"max_stream_duration": f"{REST_LIMIT_S}s"}
    rest_paths = [
        {"match": {"path": path}, "route": {"cluster": _BEHIND, "timeout": "0s", "max_stream_duration": within}}
        for path in front.rest_paths
    ]
    told = {"status": 415, "body": {"inline_string": "this path takes gRPC, application/grpc"}}
    refused = [{"match": {"path": path, "headers": [not_grpc]}, "direct_response": told} for path in front.grpc_paths]
    disabled = {"@type": f"{TYPES}envoy.config.route.v3.FilterConfig", "config": {}, "disabled": True}
    cold = {hot["name"]: disabled for hot in _hot_filters(front)}
    # gRPC itself keeps the deadlines of what it answers.
    others: Json = {"match": {"prefix": "/"}, "route": {"cluster": _BEHIND, "timeout": "0s"}}
    return [*routes, *rest_paths, *({**each, "typed_per_filter_config": cold} for each in (*refused, others))]


def _python(front: Front) -> Json:
    application = {"app": front.app, "interface": "asgi", "lifespan": True, "loop": "uvloop"}
    return {
        "name": FILTER,
        "typed_config": {
            "@type": f"{FILTERS}.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"module": {"local": {"filename": str(front.module)}}},
            "filter_name": "pyvoy",
            # Before the router, and switched off on the routes that are not its own.
            "terminal_filter": False,
            "filter_config": {"@type": f"{TYPES}google.protobuf.StringValue", "value": json.dumps(application)},
        },
    }


def _cluster(front: Front) -> Json:
    http2 = {
        "@type": f"{TYPES}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": pipe(front.behind)}}
    return {
        "name": _BEHIND,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "circuit_breakers": {"thresholds": [{"max_requests": 100_000, "max_pending_requests": 100_000}]},
        "load_assignment": {"cluster_name": _BEHIND, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
