"""One trace from the REST caller through the gateway to the inference service."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from runtime import telemetry

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RPC = "quantmesh.inference.v1.InferenceService/Predict"


@pytest.fixture
def exporter(tracer_provider: TracerProvider) -> InMemorySpanExporter:
    """Collects the spans of this process from now on."""
    exporter = InMemorySpanExporter()
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_trace_goes_from_the_caller_through_the_gateway_to_inference(
    rest: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    answer = await rest.post("/inference/predict", json={"features": [1]}, headers={"traceparent": CALLER})
    spans = by_name(exporter)
    edge, rpc = spans["POST /inference/predict"], spans[RPC]
    assert edge.context is not None
    assert rpc.context is not None
    assert f"{edge.context.trace_id:032x}" == f"{rpc.context.trace_id:032x}" == CALLER.split("-")[1]
    assert edge.parent is not None
    assert f"{edge.parent.span_id:016x}" == CALLER.split("-")[2]
    assert rpc.parent is not None
    assert rpc.parent.span_id == edge.context.span_id
    assert edge.kind is SpanKind.SERVER
    assert edge.attributes is not None
    assert edge.attributes["http.route"] == "/inference/predict"
    assert edge.attributes["http.response.status_code"] == 200
    assert answer.headers["traceparent"] == telemetry.format_traceparent(edge.context)


async def test_without_a_usable_traceparent_a_trace_is_started(
    rest: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    ids = set()
    for headers in ({}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"}):
        exporter.clear()
        answer = await rest.post("/inference/predict", json={"features": [1]}, headers=headers)
        spans = by_name(exporter)
        edge, rpc = spans["POST /inference/predict"], spans[RPC]
        assert edge.parent is None
        assert edge.context is not None
        assert rpc.context is not None
        assert edge.context.trace_id == rpc.context.trace_id
        ids.add(answer.headers["traceparent"].split("-")[1])
    assert len(ids) == 3


async def test_a_server_error_marks_the_span_and_a_client_error_does_not(
    rest: httpx.AsyncClient, servicer: Any, exporter: InMemorySpanExporter
) -> None:
    servicer.aborts["broken"] = grpc.StatusCode.INTERNAL
    await rest.get("/nowhere")
    await rest.post("/inference/predict", json={"features": [1], "model_name": "broken"})
    spans = by_name(exporter)
    assert spans["GET unmatched"].status.status_code is StatusCode.UNSET
    assert spans["POST /inference/predict"].status.status_code is StatusCode.ERROR
