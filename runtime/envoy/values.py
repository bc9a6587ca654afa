"""Parts that every Envoy configuration of the mesh has, as JSON values of Envoy's v3 API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

PUBLIC = "public"
"""The listener that callers see, and the prefix of its statistics."""

TYPES = "type.googleapis.com/"
EXTENSIONS = f"{TYPES}envoy.extensions"
FILTERS = f"{EXTENSIONS}.filters"

WINDOWS: Json = {"initial_stream_window_size": 1024 * 1024, "initial_connection_window_size": 16 * 1024 * 1024}


def connection_manager(
    name: str, codec: str, *, max_streams: int, host: Json, filters: Sequence[Json], replies: Sequence[Json] = ()
) -> Json:
    """The network filter that speaks HTTP: one virtual host, streams that may be quiet for long.

    `replies` change what Envoy itself says to callers.
    """
    return {
        "name": "http",
        "typed_config": {
            "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "codec_type": codec,
            "http2_protocol_options": {
                **WINDOWS,
                "max_concurrent_streams": max_streams,
                # A client that is gone without a word must not hold its streams for ever.
                "connection_keepalive": {"interval": "60s", "timeout": "20s"},
            },
            # A stream may be quiet for hours, and ends when its caller or its server ends it.
            "common_http_protocol_options": {"idle_timeout": "0s"},
            "stream_idle_timeout": "0s",
            "request_timeout": "0s",
            "generate_request_id": False,
            "server_header_transformation": "PASS_THROUGH",
            "drain_timeout": "1s",
            **({"local_reply_config": {"mappers": [*replies]}} if replies else {}),
            "route_config": {"virtual_hosts": [host]},
            "http_filters": [*filters],
        },
    }


def router(**options: bool) -> Json:
    """The last HTTP filter, which sends a request to the cluster of its route."""
    return {"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router", **options}}


def socket(host: str, port: int) -> Json:
    """The address of an IP address and a port."""
    # As for other servers, "::" is every address, of IPv4 too.
    return {"socket_address": {"address": host, "port_value": port, "ipv4_compat": host == "::"}}


def pipe(path: Path, **more: int) -> Json:
    """The address of a Unix socket."""
    return {"pipe": {"path": str(path), **more}}
