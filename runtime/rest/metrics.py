"""Prometheus metrics of HTTP requests, wherever they are answered.

Labels are a closed set: route templates, not paths.
"""

from __future__ import annotations

import time

from runtime.hot_metrics import HotCounter, HotHistogram

REQUESTS = HotCounter(
    "quantmesh_http_requests_total", "HTTP requests ended, by method, route and status.", ["method", "route", "code"]
)
REQUEST_SECONDS = HotHistogram(
    "quantmesh_http_request_seconds",
    "Time of an HTTP request, seconds.",
    ["method", "route"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)

CLIENT_CLOSED_REQUEST = 499
"""As nginx counts a caller who left; nobody gets this answer."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def known(method: str) -> str:
    """The method as a label: one of the usual ones, or `OTHER`."""
    return method if method in _METHODS else "OTHER"


def ended(method: str, route: str, status: int | str, started: float) -> None:
    """Count a request that began at `time.perf_counter()` `started`; its method is a known one."""
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(method, route).observe(time.perf_counter() - started)
