"""REST on a replica's own port: the gateway's answers without the gateway, to every request, good or bad."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from modelstore.onnx_model import OnnxModel
from tests.inference_process import Replica, serving
from tests.integration.inference_svc.models import boosted, rows

ROW = [0.5, -1.0, 2.0]
LIMIT = 100_000
PREDICT, BATCH = "/inference/predict", "/inference/batch"

OF_THE_MOMENT = ("latency_ms", "timestamp", "request_id", "trace_id")
"""What differs between two answers to one request."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def replica(home: Path, store: str) -> Iterator[Replica]:
    with asyncio.Runner() as runner:
        limits = {"QUANTMESH_MAX_MESSAGE_BYTES": str(LIMIT), "INFER_P99_MS_TARGET": "30000"}
        context = serving(home, store, "envoy", **limits)
        running = runner.run(context.__aenter__())
        yield running
        runner.run(context.__aexit__(None, None, None))
    assert "Traceback" not in running.said


@asynccontextmanager
async def clients(replica: Replica) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Of the replica's own port, and of a gateway in front of it."""
    app = create_app(GatewaySettings(inference_address=replica.address, gateway_max_body_bytes=LIMIT))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(base_url=f"http://{replica.address}") as direct,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as through,
    ):
        yield direct, through


def lasting(answer: httpx.Response) -> dict[str, Any]:
    return {key: value for key, value in answer.json().items() if key not in OF_THE_MOMENT}


BODIES: list[tuple[str, Any]] = [
    (PREDICT, {"features": ROW}),
    (PREDICT, {"features": ROW, "request_id": "r1", "metadata": {"desk": "a"}, "model_name": "momentum"}),
    (PREDICT, {"features": [1.0]}),
    (PREDICT, {"features": [1e300, 0, 0]}),
    (PREDICT, {"features": ROW, "model_name": "nobody"}),
    (PREDICT, {"features": ROW, "model_name": "no name!"}),
    (PREDICT, {"features": ROW, "request_id": "x" * 200}),
    (PREDICT, {"features": ROW, "model": "champion"}),
    (PREDICT, {"features": ["1", 2, 3]}),
    (PREDICT, '{"features": [1, NaN, 3]}'),
    (PREDICT, "[]"),
    (PREDICT, ""),
    (PREDICT, "{"),
    (PREDICT, "[" * 10_000),
    (PREDICT, " " * (LIMIT + 1)),
    (BATCH, {"batch": [ROW, [0, 0, 0]]}),
    (BATCH, {"batch": []}),
    (BATCH, {"batch": [ROW, [1.0]]}),
    (BATCH, {"batch": [ROW, [1.0, -1e39, 0]]}),
    (BATCH, {"batch": [[0, 0, 0]] * 1025}),
    (BATCH, '{"batch": [[1, NaN, 3]]}'),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_an_answer_is_the_gateways(replica: Replica, path: str, body: Any) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    async with clients(replica) as (direct, through):
        ours, theirs = await direct.post(path, content=content), await through.post(path, content=content)
    assert (ours.status_code, ours.headers["content-type"]) == (theirs.status_code, theirs.headers["content-type"])
    said, expected = lasting(ours), lasting(theirs)
    if "BODY_TOO_LARGE" in (said.get("reason"), expected.get("reason")):
        assert said["reason"] == expected["reason"]
    else:
        assert said == expected
    assert set(ours.json()) == set(theirs.json())
    if ours.status_code != 200:
        assert len(ours.json()["trace_id"]) == 32


async def test_other_methods_are_refused_as_by_the_gateway(replica: Replica) -> None:
    async with clients(replica) as (direct, through):
        ours, theirs = await direct.get(PREDICT), await through.get(PREDICT)
    assert (ours.status_code, ours.headers["allow"], lasting(ours)) == (405, "POST", lasting(theirs))


async def test_predictions_are_the_models(replica: Replica) -> None:
    model, matrix = OnnxModel.load(boosted()[1]), rows(200)
    async with httpx.AsyncClient(base_url=f"http://{replica.address}") as direct:
        single = [direct.post(PREDICT, json={"features": row}) for row in matrix.tolist()]
        found = [answer.json()["prediction"] for answer in await asyncio.gather(*single)]
        many = (await direct.post(BATCH, json={"batch": matrix.tolist()})).json()
    expected = model.predict(matrix)
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    assert many["predictions"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert many["batch_size"] == 200


async def test_a_trace_of_the_callers_goes_on_and_requests_are_counted_by_path(replica: Replica) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    async with httpx.AsyncClient(base_url=f"http://{replica.address}") as direct:
        good = await direct.post(PREDICT, json={"features": ROW}, headers=headers)
        bad = await direct.post(PREDICT, json={"features": [1]}, headers=headers)
        metrics = (await direct.get(f"http://127.0.0.1:{replica.metrics_port}/metrics")).text
    assert good.headers["traceparent"].split("-")[1] == bad.json()["trace_id"] == trace
    assert f'quantmesh_http_requests_total{{code="200",method="POST",route="{PREDICT}"}}' in metrics
    assert f'quantmesh_http_requests_total{{code="400",method="POST",route="{PREDICT}"}}' in metrics


async def test_a_caller_who_leaves_in_the_middle_of_a_body_hurts_nobody(replica: Replica) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", replica.port)) as caller:
            caller.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{{".encode())
    async with httpx.AsyncClient(base_url=f"http://{replica.address}") as direct:
        assert (await direct.post(PREDICT, json={"features": ROW})).status_code == 200
