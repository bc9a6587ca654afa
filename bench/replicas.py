"""What the balancer in front of the replicas costs: `python -m bench.replicas`.

One replica, dialled directly and through an Envoy with the configuration of `up --replicas`, in turns, by one client
process. Closed loop: as many calls in flight as stated. All share the machine; read the ratios. With one replica there
is nothing to balance: what is measured is the way through Envoy and back.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from examples.us_equities import job
from examples.us_equities.deployment import STRATEGY, Operator
from quantmesh.inference.v1.inference_service_pb2 import PredictRequest
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from runtime.envoy.balancer import Balancer, configuration
from runtime.ports import free_port
from runtime.settings import MeshSettings
from runtime.supervisor import Mesh
from runtime.supervisor.balancer import command, require_envoy
from runtime.supervisor.services import INFERENCE, health
from runtime.tethered import tethered

SECONDS = 3.0
ROUNDS = 3
IN_FLIGHT = (1, 16, 64)
ROW = [0.01] * 17


@asynccontextmanager
async def behind_envoy(home: Path, replica: str) -> AsyncIterator[str]:
    """An Envoy in front of one replica; gives its address."""
    port = free_port()
    host, _, replica_port = replica.rpartition(":")
    file = home / "balancer.json"
    balancer = Balancer("127.0.0.1", port, [(host, int(replica_port))], home / "balancer.sock", None)
    file.write_text(json.dumps(configuration(balancer)))
    with (home / "balancer.log").open("wb") as log:
        envoy = await asyncio.create_subprocess_exec(
            *tethered(command(require_envoy(), file, 1)), stdout=log, stderr=log
        )
    try:
        while await health(f"127.0.0.1:{port}", INFERENCE) != "SERVING":
            if envoy.returncode is not None:
                raise RuntimeError((home / "balancer.log").read_text())
            await asyncio.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        envoy.terminate()
        await envoy.wait()


async def closed_loop(address: str, in_flight: int) -> tuple[float, float, float]:
    """(calls per second, p50 ms, p99 ms)."""
    latencies: list[float] = []
    request = PredictRequest(model_name=STRATEGY, features=ROW)
    async with grpc.aio.insecure_channel(address) as channel:
        predict = InferenceServiceStub(channel).Predict
        await predict(request, wait_for_ready=True)  # opens the connection
        deadline = time.perf_counter() + SECONDS

        async def caller() -> None:
            while (started := time.perf_counter()) < deadline:
                await predict(request)
                latencies.append(time.perf_counter() - started)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return len(latencies) / SECONDS, float(p50), float(p99)


async def measure(home: Path) -> Table:
    """Start a mesh, deploy a model, and call it both ways."""
    models = await asyncio.to_thread(job.Plan.of(20).train)
    ports = {name: 0 for name in MeshSettings.model_fields if name.endswith("_port")}
    table = Table("Predict", "in flight", "calls/s", "p50 ms", "p99 ms", "of direct")
    async with Mesh(
        MeshSettings(home=home, redis_url=None, **ports), environment={"INFER_P99_MS_TARGET": "10000"}
    ) as mesh:
        await mesh.ready()
        async with grpc.aio.insecure_channel(mesh.addresses.mlops) as mlops:
            operator = Operator(mlops)
            await operator.promote(await operator.register(models[0]), "bench")
        async with behind_envoy(home, mesh.addresses.inference) as balanced:
            for in_flight in IN_FLIGHT:
                rounds = [
                    (await closed_loop(mesh.addresses.inference, in_flight), await closed_loop(balanced, in_flight))
                    for _ in range(ROUNDS)
                ]
                direct, behind = np.median(np.array(rounds), axis=0)
                for name, (rate, p50, p99) in (("direct", direct), ("behind Envoy", behind)):
                    row = (f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{rate / direct[0]:.0%}")
                    table.add_row(name, str(in_flight), *row)
    table.title = (
        f"medians of {ROUNDS} rounds of {SECONDS:g} s, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return table


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        Console().print(uvloop.run(measure(Path(directory))))


if __name__ == "__main__":
    main()
