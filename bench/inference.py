"""What a prediction costs on the way to the model: `python -m bench.inference`.

One inference replica in a process of its own, one client process. The floors are ONNX Runtime alone (no transport) and
an RPC of the same server that does nothing (health), so the ratios say where the time goes. Closed loop: as many calls
in flight as stated. Client and server share the machine; read the ratios.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingRegressor

from examples.us_equities.deployment import STRATEGY, Operator
from examples.us_equities.training import TrainedModel
from feature_svc.features import FEATURE_NAMES
from modelstore.onnx_model import OnnxModel
from quantmesh.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from runtime.settings import MeshSettings
from runtime.supervisor import Mesh

SECONDS = 3.0
BATCH_ROWS = 128
RNG = np.random.default_rng(1)
COLUMNS = len(FEATURE_NAMES)


def model() -> TrainedModel:
    """Gradient boosting, 200 trees of depth 5, on noise: what it says does not matter, what it costs does."""
    rows, labels = RNG.standard_normal((2000, COLUMNS)), RNG.standard_normal(2000)
    fitted = GradientBoostingRegressor(n_estimators=200, max_depth=5, random_state=1).fit(rows, labels)
    onnx = to_onnx(fitted, rows[:1].astype(np.float32)).SerializeToString()
    return TrainedModel("bench", onnx, 0.0, "", 0, {})


async def closed_loop(call: Callable[[], Awaitable[Any]], in_flight: int) -> tuple[float, float, float]:
    """(calls per second, p50 ms, p99 ms)."""
    latencies: list[float] = []
    deadline = time.perf_counter() + SECONDS

    async def caller() -> None:
        while (started := time.perf_counter()) < deadline:
            await call()
            latencies.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return len(latencies) / SECONDS, float(p50), float(p99)


def bare_rows_per_second(onnx: bytes, rows: int) -> float:
    """ONNX Runtime in a loop, one thread."""
    loaded, batch = OnnxModel.load(onnx), RNG.standard_normal((rows, COLUMNS))
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS / 3:
        loaded.predict(batch)
        calls += 1
    return calls * rows / (time.perf_counter() - started)


async def measure(home: Path) -> Table:
    """Start a mesh, deploy the model, and call it."""
    trained = model()
    ports = {name: 0 for name in MeshSettings.model_fields if name.endswith("_port")}
    table = Table(
        title=f"model: 200 trees, {COLUMNS} features; closed loop of {SECONDS:g} s; load {os.getloadavg()[0]:.1f}"
    )
    for column in ("what", "in flight", "calls/s", "p50 ms", "p99 ms", "of its floor"):
        table.add_column(column, justify="left" if column == "what" else "right")
    async with Mesh(MeshSettings(home=home, redis_url=None, **ports)) as mesh:
        await mesh.ready()
        async with (
            grpc.aio.insecure_channel(mesh.addresses.mlops) as mlops,
            grpc.aio.insecure_channel(mesh.addresses.inference) as inference,
            httpx.AsyncClient(base_url=mesh.addresses.gateway) as rest,
        ):
            operator = Operator(mlops)
            await operator.promote(await operator.register(trained), "bench")
            stub = inference_service_pb2_grpc.InferenceServiceStub(inference)
            health: Any = health_pb2_grpc.HealthStub(inference)
            row = RNG.standard_normal(COLUMNS).tolist()
            one = inference_service_pb2.PredictRequest(model_name=STRATEGY, features=row)
            many = inference_service_pb2.BatchPredictRequest(model_name=STRATEGY)
            for _ in range(BATCH_ROWS):
                many.batch.add(features=RNG.standard_normal(COLUMNS))
            check = health_pb2.HealthCheckRequest()
            for in_flight in (1, 16, 64):
                floor = await closed_loop(lambda: health.Check(check), in_flight)
                predict = await closed_loop(lambda: stub.Predict(one), in_flight)
                add(table, "an RPC that does nothing (floor)", in_flight, floor, 1.0)
                add(table, "Predict, gRPC", in_flight, predict, predict[0] / floor[0])
            body = {"features": row, "model_name": STRATEGY}
            for in_flight in (1, 16):
                posted = await closed_loop(lambda: rest.post("/inference/predict", json=body), in_flight)
                add(table, "Predict, REST", in_flight, posted, None)
            bare = bare_rows_per_second(trained.onnx, BATCH_ROWS)
            batched = await closed_loop(lambda: stub.BatchPredict(many), 4)
            add(
                table,
                f"BatchPredict, {BATCH_ROWS} rows (of bare ONNX rows/s)",
                4,
                batched,
                batched[0] * BATCH_ROWS / bare,
            )
    return table


def add(table: Table, what: str, in_flight: int, result: tuple[float, float, float], ratio: float | None) -> None:
    """One row."""
    rate, p50, p99 = result
    share = "-" if ratio is None else f"{ratio:.0%}"
    table.add_row(what, str(in_flight), f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", share)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        Console().print(uvloop.run(measure(Path(directory))))


if __name__ == "__main__":
    main()
