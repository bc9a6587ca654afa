"""Several replicas behind the balancer, or without it: the real supervisor and Envoy, and replicas that are stubs."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from runtime.settings import MeshSettings
from runtime.supervisor import Addresses, ChildSpec, Mesh, balancer
from runtime.supervisor.services import services
from tests.load import Call
from tests.waiting import until

PORTS: dict[str, Any] = {name: 0 for name in MeshSettings.model_fields if name.endswith("_port")}


def stubs(addresses: Addresses) -> Sequence[ChildSpec]:
    """The replicas and their balancer, as the mesh has them; only, the replicas are stubs."""
    specs = [spec for spec in services(addresses) if spec.name in (*addresses.replicas, balancer.NAME)]
    return [
        spec
        if spec.name == balancer.NAME
        else replace(spec, command=[sys.executable, "-m", "tests.stub_replica", spec.name])
        for spec in specs
    ]


@asynccontextmanager
async def balanced(home: Path, redis_url: str, replicas: int = 3, **settings: Any) -> AsyncIterator[Mesh]:
    """Stub replicas and the balancer, which sends calls to all of them by now. The Redis spares the mesh its own."""
    values = {**PORTS, "drain_grace_s": 5.0, **settings}
    mesh = Mesh(MeshSettings(home=home, redis_url=redis_url, replicas=replicas, **values), children=stubs)
    async with mesh:
        await mesh.ready(30)
        await all_healthy(mesh)
        yield mesh


def predict(inference: InferenceServiceStub, timeout_s: float = 10.0, model: str = "") -> Call:
    """A call on one row, which the stub answers as `model` tells it."""
    return lambda: inference.Predict(pb.PredictRequest(model_name=model, features=[1, 2]), timeout=timeout_s)


def who(answer: Any) -> str:
    """The stub that answered."""
    return str(answer.model_version)


def send(mesh: Mesh, name: str, number: signal.Signals) -> None:
    """Send a signal to a process that is up."""
    pid = mesh.pid(name)
    assert pid is not None, f"{name} is down"
    os.kill(pid, number)


async def all_healthy(mesh: Mesh) -> None:
    """Wait until the balancer sends calls to every replica."""
    await healthy(mesh, len(mesh.addresses.replicas))


async def healthy(mesh: Mesh, count: int) -> None:
    """Wait until the balancer sends calls to so many replicas."""

    async def so_many() -> bool:
        # The first is by health checks; a replica may also be left out for the calls that failed there.
        found = await stats(mesh, "membership_healthy|outlier_detection.ejections_active")
        return found["membership_healthy"] == count

    await until(so_many, 30)


async def stats(mesh: Mesh, names: str) -> dict[str, int]:
    """The balancer's figures of the replicas whose names match, without their prefix."""
    text = await balancer.ask(mesh.addresses.balancer_admin, "GET", f"/stats?filter=^cluster.replicas.({names})$")
    return {name: int(value) for name, value in re.findall(r"^cluster\.replicas\.(\S+): (\d+)\r?$", text, re.M)}
