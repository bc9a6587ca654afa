"""A REST path that is answered within Envoy: JSON becomes a gRPC handler's request, and its response JSON."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from opentelemetry.trace import SpanKind
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from runtime import telemetry
from runtime.envoy.grpc_method import Handler, HotContext
from runtime.envoy.hot_app import Answer, Event
from runtime.errors import FieldViolation
from runtime.grpc_calls import failure
from runtime.grpc_failure import Failure
from runtime.rest import metrics
from runtime.rest.bodies import parse, too_large
from runtime.rest.problems import MEDIA_TYPE, details_of, problem_of

Shape = TypeVar("Shape", bound=BaseModel)

_METHOD = "POST"


class RestMethod(Generic[Shape]):
    """A `runtime.envoy.hot_app.HotMethod`."""

    def __init__(
        self,
        path: str,
        shape: type[Shape],
        to_request: Callable[[Shape], Message],
        handler: Handler,
        to_answer: Callable[[Any], BaseModel],
        max_body_bytes: int,
        rename: Callable[[FieldViolation], FieldViolation] = lambda violation: violation,
    ) -> None:
        """`rename` gives the name that a field of the gRPC request has in the body."""
        self.path = path
        self._shape = shape
        self._to_request = to_request
        self._handler = handler
        self._to_answer = to_answer
        self._max_body_bytes = max_body_bytes
        self._rename = rename
        self._traced = telemetry.exported()

    def check_size(self, body: bytes) -> None:
        """Raise Problem: 413."""
        if len(body) > self._max_body_bytes:
            raise too_large(f"the body has more than {self._max_body_bytes} bytes")

    async def answer(self, scope: Event, body: bytes, _started: float) -> Answer:
        """Raises HTTPException 405, what `check_size` and `parse` raise, and what the handler raises."""
        self.check_size(body)
        traceparent = ""
        for key, value in scope["headers"]:
            if key == b"traceparent":
                traceparent = value.decode("ascii", "replace")
        if not (self._traced or traceparent):  # nobody is to see a span
            return await self._answer(scope, body, "")
        with telemetry.span(f"{scope['method']} {self.path}", traceparent, SpanKind.SERVER):
            try:
                return await self._answer(scope, body, telemetry.current_traceparent())
            except Exception as error:
                return self._refusal(error)

    async def _answer(self, scope: Event, body: bytes, traceparent: str) -> Answer:
        if scope["method"] != _METHOD:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": _METHOD})
        request = self._to_request(parse(body, self._shape))
        response = await self._handler(request, HotContext(scope["headers"], None))
        return _rendered(200, "application/json", self._to_answer(response), traceparent)

    def refusal(self, error: Exception) -> Answer:
        """A problem, in a trace of its own, which it names."""
        with telemetry.span(self.path, "", SpanKind.SERVER):
            return self._refusal(error)

    def _refusal(self, error: Exception) -> Answer:
        if not isinstance(error, HTTPException):
            told, code = failure(self.path, error)
            violations = tuple(map(self._rename, told.violations))
            error = problem_of(Failure(code, told.message, told.reason, violations, told.retry_after_s))
        said, traceparent = details_of(error), telemetry.current_traceparent()
        return _rendered(error.status_code, MEDIA_TYPE, said, traceparent, error.headers)

    def ended(self, scope: Event, status: str | None, started: float) -> None:
        """Count a request."""
        metrics.ended(metrics.known(scope["method"]), self.path, status or metrics.CLIENT_CLOSED_REQUEST, started)


def _rendered(status: int, media_type: str, said: BaseModel, traceparent: str, more: Any = None) -> Answer:
    body = said.model_dump_json().encode()
    headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in (more or {}).items()]
    if traceparent:
        headers.append((b"traceparent", traceparent.encode()))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    return (start, {"type": "http.response.body", "body": body}), str(status)
