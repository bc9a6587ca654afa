"""Envoy's configuration as a balancer: one port that everyone dials, and the replicas behind it.

Pure: a configuration is JSON values, as Envoy's v3 API documents them. What is retried, and why that is safe, is in
docs/scale-out.md. Everything that inference_svc answers may be asked twice: a prediction changes nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.envoy.values import EXTENSIONS, TYPES, WINDOWS, Json, connection_manager, pipe, router, socket

_MONITORS = f"{EXTENSIONS}.resource_monitors"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_REPLICAS = "replicas"
_ADMIN = "admin"

_OUTLIERS: Json = {
    # Five failures in a row leave a replica out, for 3 s, and longer each time: UNAVAILABLE (503 to Envoy), connections
    # refused or lost, tries without an answer.
    "consecutive_gateway_failure": 5,
    "enforcing_consecutive_gateway_failure": 100,
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 5,
    # A model that fails on a row (INTERNAL is 500 to Envoy) fails on every replica.
    "enforcing_consecutive_5xx": 0,
    "consecutive_5xx": 1_000_000,
    "interval": "1s",
    "base_ejection_time": "3s",
    "max_ejection_time": "30s",
    # Half of the replicas at most: when more than that fail, what fails is something else.
    "max_ejection_percent": 50,
    # Statistics need more replicas and more calls than there may be.
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    # A replica may answer health checks well and calls badly: only time brings it back.
    "successful_active_health_check_uneject_host": False,
}

_FRAMING_BYTES = 1024
"""What gRPC adds to a message, and more."""

_BATCH_FACTOR = 10
"""How much longer than one row a batch may take."""

_REPEATS = 3
"""Retries of one call."""

_MOST_CLIENTS = 10_000
"""Connections."""


@dataclass(frozen=True, slots=True)
class Balancer:
    """Where the balancer listens (an IP address), and what is behind it.

    A replica is an IP address or a name, which may stand for several, and a port; `max_concurrent_rpcs` is what it
    bears. `service` is the gRPC service whose health counts. A replica that has not answered a call on one row within
    `try_s` is given up on, and another is asked. `metrics_port` None leaves the Prometheus endpoint out.
    """

    host: str
    port: int
    replicas: Sequence[tuple[str, int]]
    admin: Path
    metrics_port: int | None
    service: str = "quantmesh.inference.v1.InferenceService"
    try_s: float = 1.0
    max_message_bytes: int = 4 * 1024 * 1024
    max_concurrent_rpcs: int = 1000


def configuration(balancer: Balancer) -> Json:
    """The whole bootstrap configuration."""
    listeners, clusters = [_listener(balancer)], [_replicas(balancer)]
    if balancer.metrics_port is not None:
        listeners.append(_metrics_listener(balancer.host, balancer.metrics_port))
        clusters.append(_admin_cluster(balancer.admin))
    return {
        "admin": {"address": pipe(balancer.admin, mode=0o600)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        # Which replica was left out, and when it came back, in the log.
        "cluster_manager": {"outlier_detection": {"event_log_path": "/dev/stdout"}},
        # Without a limit, Envoy warns at each start that there is none.
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MOST_CLIENTS,
                    },
                }
            ]
        },
    }


def _listener(balancer: Balancer) -> Json:
    return {
        "name": "public",
        "address": socket(balancer.host, balancer.port),
        # Two servers must not share a port in silence and split its calls.
        "enable_reuse_port": False,
        # gRPC clients open few connections and keep them: chance alone could leave all to one thread.
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [
            {"filters": [_connection_manager("public", "HTTP2", _most_calls(balancer), _host(balancer))]}
        ],
    }


def _connection_manager(name: str, codec: str, most_calls: int, host: Json) -> Json:
    # More streams than may be under way: what is too much is refused, and does not wait with the caller.
    filters = [router(suppress_envoy_headers=True)]
    return connection_manager(name, codec, max_streams=2 * most_calls, host=host, filters=filters)


def _host(balancer: Balancer) -> Json:
    # The whole request is kept until a replica has answered: else there would be nothing to send to another.
    return {
        "name": "all",
        "domains": ["*"],
        "routes": _routes(balancer),
        "request_body_buffer_limit": balancer.max_message_bytes + _FRAMING_BYTES,
    }


def _routes(balancer: Balancer) -> list[Json]:
    """Unary calls, of which a try is limited, and all others, streams among them, of which none is."""
    limits_s = {f"/{balancer.service}/{method}": balancer.try_s for method in ("Predict", "ListModels", "GetModel")}
    limits_s[f"/{balancer.service}/BatchPredict"] = _BATCH_FACTOR * balancer.try_s
    limits_s["/grpc.health.v1.Health/Check"] = balancer.try_s
    unary = [{"match": {"path": path}, "route": _route(limit_s)} for path, limit_s in limits_s.items()]
    return [*unary, {"match": {"prefix": "/"}, "route": _route(None)}]


def _route(try_s: float | None) -> Json:
    retries: Json = {
        # What a lost or leaving replica looks like: a gRPC server that stops cancels what it has not begun. Not what a
        # caller, a model or an overload brings about: the answer of the next replica would be the same.
        "retry_on": "connect-failure,refused-stream,reset,unavailable,cancelled",
        "num_retries": _REPEATS,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
        # Never the replica that has just failed. A dead one has no calls, which makes it the first choice of
        # LEAST_REQUEST, hence so many attempts to choose another.
        "retry_host_predicate": [
            {
                "name": "previous_hosts",
                "typed_config": {"@type": f"{EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 20,
    }
    if try_s is not None:
        retries["per_try_timeout"] = f"{try_s:.3f}s"
    # No time limit of the whole: the caller has a deadline, and cancels; the replica keeps to it too (grpc-timeout).
    return {"cluster": _REPLICAS, "timeout": "0s", "retry_policy": retries}


def _replicas(balancer: Balancer) -> Json:
    protocol = {
        "@type": f"{TYPES}{_HTTP}",
        "explicit_http_config": {
            "http2_protocol_options": {
                **WINDOWS,
                # Ends the streams of a replica that hangs. gRPC servers take more than a ping every 10 s for abuse.
                "connection_keepalive": {"interval": "12s", "timeout": "3s"},
            }
        },
    }
    endpoints = [{"endpoint": {"address": socket(*replica)}} for replica in balancer.replicas]
    return {
        "name": _REPLICAS,
        "type": "STATIC" if all(_is_ip(host) for host, _ in balancer.replicas) else "STRICT_DNS",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        # With no replica left a call fails at once; Envoy's "panic" would send it to those that are known to be ill.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": {_HTTP: protocol},
        "health_checks": [_health_check(balancer.service)],
        "outlier_detection": _OUTLIERS,
        "circuit_breakers": {"thresholds": [_limits(balancer)]},
        "load_assignment": {"cluster_name": _REPLICAS, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _health_check(service: str) -> Json:
    """NOT_SERVING (a drain) counts at once; silence, which may be a busy machine, at the third time."""
    return {
        "grpc_health_check": {"service_name": service},
        "timeout": "1s",
        "interval": "0.5s",
        "no_traffic_interval": "0.5s",
        "unhealthy_edge_interval": "0.2s",
        "unhealthy_interval": "0.5s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "event_logger": [
            {
                "name": "log",
                "typed_config": {
                    "@type": f"{EXTENSIONS}.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
                    "event_log_path": "/dev/stdout",
                },
            }
        ],
    }


def _limits(balancer: Balancer) -> Json:
    """What all replicas together take; and retries of as many calls as one replica can have, so that its loss is
    hidden, but not of more: with all of them ill, retries would only be more load.
    """
    return {
        "max_connections": _MOST_CLIENTS,
        "max_pending_requests": _most_calls(balancer),
        "max_requests": _most_calls(balancer),
        "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": balancer.max_concurrent_rpcs},
        "track_remaining": True,
    }


def _most_calls(balancer: Balancer) -> int:
    return balancer.max_concurrent_rpcs * len(balancer.replicas)


def _metrics_listener(host: str, port: int) -> Json:
    """`/metrics` for Prometheus, and nothing else of the admin interface."""
    metrics = {"match": {"path": "/metrics"}, "route": {"cluster": _ADMIN, "prefix_rewrite": "/stats/prometheus"}}
    all_hosts = {"name": "all", "domains": ["*"], "routes": [metrics]}
    return {
        "name": "metrics",
        "address": socket(host, port),
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [_connection_manager("metrics", "AUTO", 10, all_hosts)]}],
    }


def _admin_cluster(admin: Path) -> Json:
    endpoint = {"endpoint": {"address": pipe(admin)}}
    return {
        "name": _ADMIN,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": _ADMIN, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
