"""gRPC clients that balance over the replicas by themselves: what the retry policy hides, and what is there to hide."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from runtime import grpc_client
from runtime.supervisor import Mesh
from tests.load import Load, under_load
from tests.replicas import balanced, predict, send, who
from tests.waiting import until

CALLERS = 16
VICTIM = "inference_svc-2"


@pytest.fixture
async def mesh(tmp_path: Path, redis_url: str) -> AsyncIterator[Mesh]:
    """Three replicas. There is a balancer, which nobody uses."""
    async with balanced(tmp_path / "m", redis_url) as up:
        yield up


def listed(mesh: Mesh) -> str:
    return ",".join(mesh.addresses.replicas.values())


async def killed_under(load: Load, mesh: Mesh) -> None:
    """Kill one replica that certainly has calls, and wait until it takes calls again."""
    await load.answered_by(VICTIM)
    send(mesh, VICTIM, signal.SIGSTOP)
    await until(lambda: load.waiting(0.1) >= 3)
    send(mesh, VICTIM, signal.SIGKILL)
    await until(lambda: mesh.restarts(VICTIM) == 1)
    await load.answered_by(VICTIM)


async def test_calls_go_round(mesh: Mesh) -> None:
    async with (
        grpc_client.channel(listed(mesh)) as channel,
        under_load(predict(InferenceServiceStub(channel)), CALLERS, who) as load,
    ):
        for name in mesh.addresses.replicas:  # connected
            await load.answered_by(name)
        load.answers.clear()
        await load.more(300)
    assert min(load.answers.values()) > load.answers.total() / 4
    assert not load.failures


async def test_the_retry_policy_hides_that_a_replica_died(mesh: Mesh) -> None:
    async with (
        grpc_client.channel(listed(mesh)) as channel,
        under_load(predict(InferenceServiceStub(channel)), CALLERS, who) as load,
    ):
        await killed_under(load, mesh)
    assert not load.failures, load.said


async def test_without_it_a_caller_sees_unavailable_and_nothing_else(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(grpc_client, "_OPTIONS", [*grpc_client._OPTIONS, ("grpc.enable_retries", 0)])
    async with (
        grpc_client.channel(listed(mesh)) as channel,
        under_load(predict(InferenceServiceStub(channel)), CALLERS, who) as load,
    ):
        await killed_under(load, mesh)
    assert set(load.failures) == {"UNAVAILABLE"}
    assert load.failures["UNAVAILABLE"] >= 3, "those that were with it"


async def test_a_rolling_restart_fails_no_call(mesh: Mesh) -> None:
    async with (
        grpc_client.channel(listed(mesh)) as channel,
        under_load(predict(InferenceServiceStub(channel)), CALLERS, who) as load,
    ):
        for name in mesh.addresses.replicas:
            await load.answered_by(name)
            send(mesh, name, signal.SIGTERM)
            await until(lambda name=name: mesh.restarts(name) == 1)  # type: ignore[misc]
            await load.answered_by(name)
    assert not load.failures, load.said


async def test_a_replica_that_hangs_is_given_up_on(mesh: Mesh) -> None:
    """By the pings of the connection, so its calls need a deadline of some seconds."""
    async with (
        grpc_client.channel(listed(mesh)) as channel,
        under_load(predict(InferenceServiceStub(channel), timeout_s=40), CALLERS, who) as load,
    ):
        await load.answered_by(VICTIM)
        send(mesh, VICTIM, signal.SIGSTOP)
        await until(lambda: load.waiting(0.5) == CALLERS)
        await load.more(300, 40)
        send(mesh, VICTIM, signal.SIGCONT)
        await load.answered_by(VICTIM)
    assert not load.failures, load.said


async def test_the_gateway_may_balance_by_itself(mesh: Mesh) -> None:
    settings = GatewaySettings(inference_address=listed(mesh), gateway_timeout_s=10)
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as client,
    ):

        async def post() -> str:
            answer = await client.post("/inference/predict", json={"features": [1.0, 2.0]})
            assert answer.status_code == 200, answer.text
            return str(answer.json()["model_version"])

        async with under_load(post, 4, str) as load:
            for name in mesh.addresses.replicas:
                await load.answered_by(name)
            send(mesh, VICTIM, signal.SIGKILL)
            await until(lambda: mesh.restarts(VICTIM) == 1)
            await load.answered_by(VICTIM)
