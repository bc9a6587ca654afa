"""One trace from REST through the gateway to inference, and one from a raw feature to a signal, by a real collector."""

from __future__ import annotations

import httpx
from redis.asyncio import Redis

from examples.us_equities.job import Report
from examples.us_equities.replay import RAW, SIGNALS
from quantmesh.streams.v1 import signal_pb2
from runtime.telemetry import trace_id_of
from streams import keys
from tests.mesh import RunningMesh
from tests.otlp import Collector
from tests.waiting import until


async def test_a_rest_call_is_one_trace_down_to_inference(
    mesh: RunningMesh, replayed: Report, collector: tuple[Collector, str]
) -> None:
    trace_id, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    async with httpx.AsyncClient(base_url=mesh.addresses.gateway) as client:
        answer = await client.post(
            "/inference/predict",
            json={"features": replayed.last_features},
            headers={"traceparent": f"00-{trace_id}-{caller}-01"},
        )
    assert answer.status_code == 200
    await until(lambda: len(collector[0].trace(trace_id)) >= 2)
    gateway, inference = sorted(collector[0].trace(trace_id), key=lambda span: span.service)
    assert (gateway.service, gateway.parent_id) == ("gateway", caller)
    assert (inference.service, inference.parent_id) == ("inference_svc", gateway.span_id)
    assert inference.name == "quantmesh.inference.v1.InferenceService/Predict"


async def test_a_signal_continues_the_trace_of_its_raw_features(
    mesh: RunningMesh, replayed: Report, collector: tuple[Collector, str]
) -> None:
    async with Redis.from_url(mesh.redis_url) as redis:
        ((_, fields),) = await redis.xrevrange(keys.entries(SIGNALS, 0), count=1)
        signal = signal_pb2.Signal.FromString(fields[keys.PAYLOAD])
        trace_id = signal.receipt.trace_id
        raw = await redis.xrange(keys.entries(RAW, 0))
    assert trace_id_of(fields[keys.TRACEPARENT].decode()) == trace_id
    assert any(trace_id_of(entry[keys.TRACEPARENT].decode()) == trace_id for _, entry in raw)

    def services() -> list[str]:
        return [span.service for span in collector[0].trace(trace_id)]

    await until(lambda: "inference_svc" in services() and "feature_svc" in services())
    spans = {span.span_id: span for span in collector[0].trace(trace_id)}
    (scored,) = [span for span in spans.values() if span.service == "inference_svc"]
    vector = spans[scored.parent_id]
    raw_features = spans[vector.parent_id]
    assert [vector.service, raw_features.service] == ["feature_svc", "feature_svc"]
    assert [vector.name, raw_features.name] == ["feature vector", "raw features"]
