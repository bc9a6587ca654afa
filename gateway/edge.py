"""What every HTTP request gets: a SERVER span that continues the caller's trace, metrics, and 500 for a bug.

Plain ASGI: a body or an answer is never held back. Labels are a closed set: route templates, not paths.
"""

from __future__ import annotations

import time
from http import HTTPStatus

import structlog
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.problems import response_of
from runtime import telemetry
from runtime.rest import metrics
from runtime.rest.problems import internal_problem

log = structlog.get_logger()


class Edge:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = metrics.known(scope["method"])
        started = time.perf_counter()
        with telemetry.span(method, _traceparent(scope), SpanKind.SERVER) as span:
            status = await self._observed(scope, receive, send)
            route = getattr(scope.get("route"), "path", "unmatched")
            _describe(span, method, route, scope["path"], status)
        metrics.ended(method, route, status, started)

    async def _observed(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Run the application; return the status that was sent."""
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                traceparent = telemetry.current_traceparent()
                if traceparent:  # empty where no tracer provider is installed
                    message["headers"] = [*message.get("headers", ()), (b"traceparent", traceparent.encode("ascii"))]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            return metrics.CLIENT_CLOSED_REQUEST
        except Exception as error:
            log.error("request failed", path=scope["path"], exc_info=error)
            if status:  # the answer has begun: the server can only cut the connection
                raise
            await response_of(internal_problem())(scope, receive, sent)
        return status


def _traceparent(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return str(value.decode("latin-1")).strip()
    return ""


def _describe(span: Span, method: str, route: str, path: str, status: int) -> None:
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "url.path": path,
            "http.response.status_code": status,
        }
    )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.set_status(StatusCode.ERROR)
