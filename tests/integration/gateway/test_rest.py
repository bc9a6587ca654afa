"""The documented REST shapes, against a real gRPC server."""

from __future__ import annotations

import re
from typing import Any

import httpx

from gateway.app import create_app
from gateway.settings import GatewaySettings
from runtime.grpc_server import MeshServer
from runtime.ports import free_port

VERSION = "ab" * 32


async def test_predict_answers_the_documented_shape(rest: httpx.AsyncClient) -> None:
    answer = await rest.post(
        "/inference/predict",
        json={"features": [1, 2.5], "model_name": "equities", "request_id": "r-1", "metadata": {"desk": "7"}},
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "prediction": 3.5,
        "model_name": "equities",
        "model_version": VERSION,
        "latency_ms": 0.25,
        "timestamp": "2026-11-25T07:00:00.123456Z",
        "request_id": "r-1",
        "generation": 3,
        "metadata": {"desk": "7"},
    }


async def test_predict_asks_the_champion_and_makes_an_id_by_default(rest: httpx.AsyncClient) -> None:
    answers = [(await rest.post("/inference/predict", json={"features": [1]})).json() for _ in range(2)]
    assert [answer["model_name"] for answer in answers] == ["champion", "champion"]
    assert len({answer["request_id"] for answer in answers} - {""}) == 2


async def test_predict_takes_json_whatever_the_content_type(rest: httpx.AsyncClient) -> None:
    """`curl -d` declares a form."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await rest.post("/inference/predict", content=b'{"features": [1, 1]}', headers=form)
    assert answer.json()["prediction"] == 2


async def test_batch_answers_the_documented_shape(rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/inference/batch", json={"batch": [[1, 2], [3, 4]], "request_id": "b"})
    assert answer.status_code == 200
    assert answer.json() == {
        "predictions": [3, 7],
        "model_name": "champion",
        "model_version": VERSION,
        "batch_size": 2,
        "latency_ms": 0.5,
        "timestamp": "2026-11-25T07:00:00.123456Z",
        "request_id": "b",
        "generation": 3,
    }


async def test_health_lists_the_loaded_models(rest: httpx.AsyncClient) -> None:
    answer = await rest.get("/inference/health")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["inference"]) == ("ok", "SERVING")
    assert body["uptime_s"] > 0
    assert body["models"] == [
        {
            "name": "sum",
            "version": VERSION,
            "strategy": "equities",
            "alias": "champion",
            "generation": 3,
            "feature_set": "equities_daily",
            "feature_names": ["a", "b"],
            "prediction_unit": "fraction",
            "loaded_at": "2026-11-25T07:00:00.123456Z",
        }
    ]


async def test_health_is_degraded_without_a_model_and_while_inference_is_not_serving(
    rest: httpx.AsyncClient, inference: MeshServer, servicer: Any
) -> None:
    models = servicer.models
    servicer.models = []
    empty = await rest.get("/inference/health")
    servicer.models = models
    await inference.set_serving("quantmesh.inference.v1.InferenceService", False)
    not_serving = await rest.get("/inference/health")
    assert [(a.status_code, a.json()["status"], a.json()["inference"]) for a in (empty, not_serving)] == [
        (200, "degraded", "SERVING"),
        (200, "degraded", "NOT_SERVING"),
    ]


async def test_health_is_503_when_inference_cannot_be_reached() -> None:
    app = create_app(GatewaySettings(inference_address=f"127.0.0.1:{free_port()}"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as rest,
    ):
        answer = await rest.get("/inference/health")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert (answer.json()["status"], answer.json()["inference"]) == ("unavailable", "UNREACHABLE")
    assert answer.json()["models"] == []


async def test_the_document_holds_every_shape_that_it_refers_to(rest: httpx.AsyncClient) -> None:
    document = (await rest.get("/openapi.json")).json()
    assert {"/inference/predict", "/inference/batch", "/inference/health", "/metrics"} <= set(document["paths"])

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= named
    assert "#/components/schemas/PredictBody" in references(document)
    page = (await rest.get("/docs")).text
    sources = [*re.findall(r'(?:src|href)="([^"]+)"', page), *re.findall(r"url: '([^']+)'", page)]
    assert len(sources) == 4, page
    for source in sources:  # relative: nothing comes from elsewhere, also behind a proxy that ends TLS
        assert re.match(r"[a-z]", source), source
        assert "://" not in source
        assert (await rest.get(source)).status_code == 200
    assert (await rest.get("/swagger/__init__.py")).status_code == 404


async def test_health_and_index_answer_head(rest: httpx.AsyncClient) -> None:
    assert [(await rest.head(path)).status_code for path in ("/", "/inference/health")] == [200, 200]


async def test_index_links_to_the_rest(rest: httpx.AsyncClient) -> None:
    page = (await rest.get("/")).text
    for link in ("/docs", "/inference/health", "/metrics"):
        assert f'href="{link}"' in page
        assert (await rest.get(link)).status_code == 200


async def test_metrics_count_by_route_never_by_path(rest: httpx.AsyncClient) -> None:
    await rest.post("/inference/predict", json={"features": [1]})
    await rest.get("/some/secret-path")
    for path in ("/docs", "/openapi.json", "/swagger/swagger-ui.css", "/swagger/favicon-32x32.png"):
        await rest.get(path)
    await rest.request("BREW", "/inference/predict")
    text = (await rest.get("/metrics")).text
    assert 'quantmesh_http_requests_total{code="200",method="POST",route="/inference/predict"}' in text
    assert 'quantmesh_http_requests_total{code="404",method="GET",route="unmatched"}' in text
    for route in ("/docs", "/openapi.json", "/swagger/{name}"):
        assert f'quantmesh_http_requests_total{{code="200",method="GET",route="{route}"}}' in text
    assert 'code="200",method="GET",route="unmatched"' not in text
    assert "secret-path" not in text
    assert "BREW" not in text
