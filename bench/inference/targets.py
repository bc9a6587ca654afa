"""A server as the load generators see it, and the proof that it answers rightly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc.aio
import httpx
import numpy as np

from bench.inference.workload import Predictions

_READY_S, _LOOK_EVERY_S, _TIMEOUT_S = 60.0, 0.5, 10.0


class Role(Enum):
    """What a server is in the comparison."""

    OURS = "ours"
    PEER = "peer"
    FLOOR = "floor"


class WrongAnswerError(Exception):
    """A server that does not say what ONNX Runtime says."""


@dataclass(frozen=True, slots=True)
class Check:
    """Where `grpc_load` finds the number that an answer must hold: a C type and an offset, such as `double@1`."""

    place: str
    numbers: Sequence[float]
    """One for each payload."""


@dataclass(frozen=True, slots=True)
class GrpcTarget:
    """One method of one server."""

    server: str
    role: Role
    address: str
    method: str
    payloads: Sequence[bytes]
    answers: Sequence[Predictions]
    """What ONNX Runtime says to each payload."""
    read: Callable[[bytes], Predictions] | None
    """The predictions in an answer; None for an echo."""
    check: Check | None = None
    streams: bool = False
    """A bidirectional method, one answer for each message."""


@dataclass(frozen=True, slots=True)
class RestTarget:
    """One path of one server, by POST."""

    server: str
    role: Role
    url: str
    bodies: Sequence[dict[str, Any]]
    answers: Sequence[float]
    read: Callable[[dict[str, Any]], float]


async def verify(target: GrpcTarget | RestTarget) -> None:
    """Send each request once, anew until the answers are right: a server may listen before its model is loaded.

    Raises WrongAnswerError when they are not in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _READY_S
    while True:
        try:
            return await (_verify_grpc(target) if isinstance(target, GrpcTarget) else _verify_rest(target))
        except (WrongAnswerError, grpc.aio.AioRpcError, httpx.HTTPError) as error:
            if loop.time() > deadline:
                raise WrongAnswerError(f"{target.server} does not answer rightly: {error}") from error
        await asyncio.sleep(_LOOK_EVERY_S)


async def _verify_grpc(target: GrpcTarget) -> None:
    async with grpc.aio.insecure_channel(target.address) as channel:
        if target.streams:
            method: Any = channel.stream_stream(target.method)
            stream = method(iter(target.payloads), timeout=_TIMEOUT_S)
            answers = [answer async for answer in stream]
        else:
            call: Any = channel.unary_unary(target.method)
            answers = [await call(payload, timeout=_TIMEOUT_S) for payload in target.payloads]
    if target.read is None:
        if answers != list(target.payloads):
            raise WrongAnswerError("not an echo")
        return
    if len(answers) != len(target.answers):
        raise WrongAnswerError(f"{len(answers)} answers to {len(target.answers)} requests")
    for answer, right in zip(answers, target.answers, strict=True):
        _compare(target.read(answer), right)


async def _verify_rest(target: RestTarget) -> None:
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
        for body, right in zip(target.bodies, target.answers, strict=True):
            response = await client.post(target.url, json=body)
            response.raise_for_status()
            _compare(np.asarray([target.read(response.json())]), np.asarray([right]))


def _compare(got: Predictions, right: Predictions) -> None:
    if got.shape != right.shape or not np.allclose(got, right, rtol=1e-5, atol=1e-6):
        raise WrongAnswerError(f"it says {got[:3]}, ONNX Runtime says {right[:3]}")
