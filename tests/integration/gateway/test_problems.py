"""Bad input and failures: the right status, the field named, problem+json, nothing of the inside."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from runtime import errors
from runtime.errors import FieldViolation
from runtime.ports import free_port


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.text, parse_constant=pytest.fail)
    assert body["status"] == status
    assert set(body) == {"type", "title", "status", "detail", "reason", "errors", "trace_id"}
    assert body["trace_id"] == answer.headers["traceparent"].split("-")[1]
    return body


DOMAIN = [
    (errors.InvalidInputError("features[1]: bad", reason="R", violations=[FieldViolation("features[1]", "bad")]), 400),
    (errors.NotFoundError("no model of that name", reason="UNKNOWN_MODEL"), 404),
    (errors.FailedPreconditionError("not finite", reason="NON_FINITE_PREDICTION"), 409),
    (errors.ResourceExhaustedError("too many rows", reason="BATCH_TOO_LARGE"), 413),
]


@pytest.mark.parametrize(("error", "status"), DOMAIN, ids=[type(error).__name__ for error, _ in DOMAIN])
async def test_a_domain_error_keeps_its_reason_detail_and_fields(
    rest: httpx.AsyncClient, servicer: Any, error: errors.QuantmeshError, status: int
) -> None:
    servicer.failures["broken"] = error
    answer = await rest.post("/inference/predict", json={"features": [1, 2], "model_name": "broken"})
    body = problem(answer, status)
    assert (body["detail"], body["reason"]) == (error.message, error.reason)
    assert body["errors"] == [{"field": v.field, "description": v.description} for v in error.violations]
    assert "retry-after" not in answer.headers
    assert servicer.calls == 1, "only UNAVAILABLE is tried again"


async def test_retry_info_becomes_retry_after_in_whole_seconds(rest: httpx.AsyncClient, servicer: Any) -> None:
    servicer.failures["busy"] = errors.ResourceExhaustedError("full", reason="QUEUE_FULL", retry_after_s=1.2)
    answer = await rest.post("/inference/predict", json={"features": [1], "model_name": "busy"})
    assert problem(answer, 429)["reason"] == "QUEUE_FULL"
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.ALREADY_EXISTS, 409),
        (grpc.StatusCode.FAILED_PRECONDITION, 409),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.UNIMPLEMENTED, 501),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.UNKNOWN, 500),
        (grpc.StatusCode.PERMISSION_DENIED, 500),
    ],
)
async def test_every_bare_status_maps_and_says_nothing_of_the_inside(
    rest: httpx.AsyncClient, servicer: Any, code: grpc.StatusCode, status: int
) -> None:
    servicer.aborts["broken"] = code
    answer = await rest.post("/inference/predict", json={"features": [1], "model_name": "broken"})
    body = problem(answer, status)
    assert "inside" not in answer.text
    assert body["reason"] == ("INTERNAL" if status == 500 else code.name)


async def test_unavailable_is_tried_again_within_the_deadline(rest: httpx.AsyncClient, servicer: Any) -> None:
    class Passing(errors.UnavailableError):
        """Gone when it has been raised twice."""

    servicer.failures["restarting"] = Passing("restarting", reason="RESTARTING")
    check = servicer._check

    async def twice(name: str, context: Any) -> None:
        if servicer.calls == 2:
            servicer.failures.clear()
        await check(name, context)

    servicer._check = twice
    answer = await rest.post("/inference/predict", json={"features": [4], "model_name": "restarting"})
    assert answer.json()["prediction"] == 4
    assert servicer.calls == 3


async def test_every_call_has_a_deadline(rest: httpx.AsyncClient, servicer: Any) -> None:
    await rest.post("/inference/predict", json={"features": [4]})
    assert 0 < servicer.time_remaining_s < 2.5
    await rest.post("/inference/batch", json={"batch": [[4]]})
    assert 0 < servicer.time_remaining_s < 2.5


async def test_a_batch_field_is_named_as_the_body_has_it(rest: httpx.AsyncClient) -> None:
    body = problem(await rest.post("/inference/batch", json={"batch": [[1, 2], [3]]}), 400)
    assert body["errors"] == [{"field": "batch[1]", "description": "has another number of features"}]


@pytest.mark.parametrize("body", [b"", b"features=1", b"{", b'{"features": [1,]}', b"\xff\xfe{}", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/inference/predict", "/inference/batch"])
async def test_a_body_that_is_not_json_is_400(rest: httpx.AsyncClient, path: str, body: bytes) -> None:
    assert problem(await rest.post(path, content=body), 400)["reason"] == "NOT_JSON"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"features": [1, NaN]}', "features[1]"),
        ('{"features": [Infinity]}', "features[0]"),
        ('{"features": [-Infinity]}', "features[0]"),
        ('{"features": [1e999]}', "features[0]"),
        ('{"features": [' + "9" * 400 + "]}", "features[0]"),
        ('{"features": [null]}', "features[0]"),
        ('{"features": ["1"]}', "features[0]"),
        ('{"features": [true]}', "features[0]"),
        ('{"features": 1}', "features"),
        ("{}", "features"),
        ('{"features": [1], "model": "x"}', "model"),
        ('{"features": [1], "model_name": 5}', "model_name"),
        ('{"features": [1], "metadata": {"a": 1}}', "metadata.a"),
        ("[]", "body"),
        ("null", "body"),
    ],
)
async def test_a_body_of_another_shape_is_422_with_the_field(
    rest: httpx.AsyncClient, servicer: Any, body: str, field: str
) -> None:
    found = problem(await rest.post("/inference/predict", content=body), 422)
    assert [error["field"] for error in found["errors"]] == [field]
    assert found["detail"].startswith(f"{field}: ")
    assert servicer.calls == 0


async def test_the_first_bad_cell_is_named_and_a_flood_of_them_costs_no_more(rest: httpx.AsyncClient) -> None:
    body = problem(await rest.post("/inference/batch", content='{"batch": [[1, NaN], [NaN, 2]]}'), 422)
    assert [error["field"] for error in body["errors"]] == ["batch[0][1]"]
    many = problem(await rest.post("/inference/batch", json={"batch": [["x"] * 10_000]}), 422)
    assert [error["field"] for error in many["errors"]] == ["batch[0][0]"]


async def test_a_body_over_the_limit_is_413_declared_or_chunked(rest: httpx.AsyncClient, servicer: Any) -> None:
    padding = b" " * 100_000
    declared = await rest.post("/inference/predict", content=b'{"features": [1]}' + padding)
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield padding[:10_000]

    chunked = await rest.post("/inference/predict", content=chunks())
    for answer in (declared, chunked):
        body = problem(answer, 413)
        assert body["reason"] == "BODY_TOO_LARGE"
        assert "100000" in body["detail"]
    assert sent <= 120_000, "the rest of the body is not read"
    assert servicer.calls == 0


async def test_rows_too_large_for_grpc_are_413(settings: GatewaySettings) -> None:
    """Eight bytes a number in gRPC, two in JSON."""
    app = create_app(settings.model_copy(update={"max_message_bytes": 50_000}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as rest,
    ):
        problem(await rest.post("/inference/predict", json={"features": [0] * 10_000}), 413)
        assert (await rest.post("/inference/predict", json={"features": [0] * 5_000})).status_code == 200


async def test_unknown_path_and_wrong_method_are_problems_too(rest: httpx.AsyncClient) -> None:
    assert problem(await rest.get("/nowhere"), 404)["reason"] == "NO_SUCH_PATH"
    wrong = await rest.get("/inference/predict")
    assert problem(wrong, 405)["reason"] == "METHOD_NOT_ALLOWED"
    assert wrong.headers["allow"] == "POST"


async def test_inference_away_is_503_without_its_address() -> None:
    port = free_port()
    app = create_app(GatewaySettings(inference_address=f"127.0.0.1:{port}", gateway_timeout_s=0.5))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as rest,
    ):
        answer = await rest.post("/inference/predict", json={"features": [1]})
    assert problem(answer, 503)["reason"] == "UNAVAILABLE"
    assert answer.headers["retry-after"] == "1"
    assert str(port) not in answer.text


async def test_a_bug_in_the_gateway_is_500_without_its_inside(settings: GatewaySettings) -> None:
    app = create_app(settings)

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("something of the inside")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as rest:
        answer = await rest.get("/bug")
    assert problem(answer, 500)["reason"] == "INTERNAL"
    assert "inside" not in answer.text
