"""Calls that are answered within Envoy: an ASGI application of hot methods, each one request and one answer.

Envoy has done the HTTP work. What all such calls have in common is here: they are counted while they are in flight and
looked after when they take long, and refused when the service is going away. It is the hot path, so it is written flat,
and nothing is made anew for each call if it can be made once.

Deadlines of gRPC are kept by Envoy, and surplus calls are refused there (see `runtime.envoy.config`).
"""

from __future__ import annotations

import asyncio
import time
from binascii import a2b_base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Protocol, TypeAlias

from runtime.envoy import bodies
from runtime.errors import UnavailableError

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
Event: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], object]

_BODY = bodies.HEADER.encode()

SWEEP_S = 0.05
"""Calls in flight for longer are looked after, so often: has the caller given up? The usual call is over before."""


Answer: TypeAlias = tuple[Sequence[Event], str]
"""A whole answer: what is sent, and the status that it counts as."""


class HotMethod(Protocol):
    """What is answered on one path."""

    @property
    def path(self) -> str:
        """Of HTTP, such as `/quantmesh.inference.v1.InferenceService/Predict`."""

    def check_size(self, body: bytes) -> None:
        """Raise for the beginning of a body that is too large already."""

    async def answer(self, scope: Event, body: bytes, started: float) -> Answer:
        """Answer a request of any size, which began at `time.perf_counter()` `started`. What is raised is refused."""

    def refusal(self, error: Exception) -> Answer:
        """What a caller is told of an error."""

    def ended(self, scope: Event, status: str | None, started: float) -> None:
        """Count a call; without a status, its caller has given up."""


class HotApp:
    """The ASGI application."""

    def __init__(self, methods: Sequence[HotMethod]) -> None:
        self._methods = {method.path: method for method in methods}
        # In order of arrival: the oldest call is the first.
        self._in_flight: dict[asyncio.Task[Any], tuple[float, Receive]] = {}
        self._gave_up: set[asyncio.Task[Any]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._draining = False

    async def drain(self, grace_s: float) -> None:
        """Refuse new calls with UNAVAILABLE, and wait for those in flight, up to the grace."""
        self._draining = True
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=grace_s)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one call. A send takes effect when it is called, so none is waited for."""
        started = time.perf_counter()
        method = self._methods[scope["path"]]
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._in_flight[task] = started, receive
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())
        ended_with = None
        try:
            try:
                name, value = scope["headers"][-1]
                body = a2b_base64(value) if name == _BODY else await _body(receive, method)
                if body is None:  # the caller has gone
                    return
                if self._draining:
                    raise UnavailableError("this server is going away: try again", reason="DRAINING", retry_after_s=0.1)
                events, status = await method.answer(scope, body, started)
            except Exception as error:
                events, status = method.refusal(error)
            for event in events:
                send(event)
            ended_with = status
        except asyncio.CancelledError:
            if task not in self._gave_up:
                raise
        finally:
            method.ended(scope, ended_with, started)
            del self._in_flight[task]
            if self._gave_up:
                self._gave_up.discard(task)

    async def _sweep(self) -> None:
        """Look after calls that take long: one whose caller has given up is cancelled."""
        while self._in_flight:
            await asyncio.sleep(SWEEP_S)
            for task, receive in self._older_than(time.perf_counter() - SWEEP_S):
                event = await receive()  # of a caller that is there: an empty one
                if event["type"] == "http.disconnect" and task in self._in_flight:
                    self._gave_up.add(task)
                    task.cancel()

    def _older_than(self, before: float) -> list[tuple[asyncio.Task[Any], Receive]]:
        calls = takewhile(lambda call: call[1][0] < before, self._in_flight.items())
        return [(task, receive) for task, (_, receive) in calls]


async def _body(receive: Receive, method: HotMethod) -> bytes | None:
    """The whole body of a call; None when the caller has gone. Raises what `check_size` raises."""
    event = await receive()
    if event["type"] == "http.disconnect":
        return None
    body: bytes = event["body"]
    while event.get("more_body"):
        method.check_size(body)
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body += event["body"]
    return body
