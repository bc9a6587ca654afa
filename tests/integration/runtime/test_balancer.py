"""Replicas behind the real Envoy, under the real supervisor: what a caller sees when they die, hang, leave and fail."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest

from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from runtime import grpc_client
from runtime.envoy.balancer import Balancer, configuration
from runtime.supervisor import Mesh
from runtime.supervisor.balancer import require_envoy
from tests.load import under_load
from tests.replicas import all_healthy, balanced, healthy, predict, send, stats, who
from tests.waiting import until

CALLERS = 16
VICTIM = "inference_svc-2"
REFUSALS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "FAILED_PRECONDITION")


@pytest.fixture
async def mesh(tmp_path: Path, redis_url: str) -> AsyncIterator[Mesh]:
    """Three replicas and the balancer."""
    async with balanced(tmp_path / "m", redis_url) as up:
        yield up


@pytest.fixture
async def inference(mesh: Mesh) -> AsyncIterator[InferenceServiceStub]:
    """A client that dials the balancer, and retries nothing."""
    async with unretried(mesh.addresses.inference) as channel:
        yield InferenceServiceStub(channel)


def unretried(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)])


async def retried(mesh: Mesh) -> int:
    """How many calls the balancer has asked a second replica for."""
    return (await stats(mesh, "upstream_rq_retry"))["upstream_rq_retry"]


async def under_way(mesh: Mesh, calls: int) -> None:
    """Wait until the replicas have so many calls."""

    async def so_many() -> bool:
        return (await stats(mesh, "upstream_rq_active"))["upstream_rq_active"] == calls

    await until(so_many)


@pytest.mark.parametrize("replicas", [[("127.0.0.1", 1), ("::1", 2)], [("inference-headless", 1)]])
def test_envoy_takes_the_configuration(tmp_path: Path, replicas: list[tuple[str, int]]) -> None:
    file = tmp_path / "balancer.json"
    file.write_text(json.dumps(configuration(Balancer("::", 3, replicas, tmp_path / "admin.sock", 4))))
    command = [str(require_envoy()), "--mode", "validate", "--log-level", "warning", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_all_replicas_share_the_calls_and_nobody_else_reads_the_admin_socket(
    mesh: Mesh, inference: InferenceServiceStub
) -> None:
    async with under_load(predict(inference), CALLERS, who) as load:
        for name in mesh.addresses.replicas:
            await load.answered_by(name, 50)
    assert not load.failures
    # Random choice of two out of three, and the freer one of them: none is left idle.
    assert min(load.answers.values()) > load.answers.total() / 6
    assert stat.S_IMODE(Path(mesh.addresses.balancer_admin).stat().st_mode) == 0o600
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(mesh.addresses.metrics["balancer"])).text
        beside = await client.get(mesh.addresses.metrics["balancer"].replace("metrics", "config_dump"))
    assert 'envoy_cluster_membership_healthy{envoy_cluster_name="replicas"} 3' in metrics
    assert beside.status_code == 404
    assert (mesh.logs_dir / "inference_svc-3.log").read_text().startswith("inference_svc-3 of")


async def test_no_caller_sees_a_replica_die_and_it_takes_calls_again(
    mesh: Mesh, inference: InferenceServiceStub
) -> None:
    async with under_load(predict(inference), CALLERS, who) as load:
        await load.answered_by(VICTIM)
        # Stopped first, so that there are calls at it when it dies, however fast it is.
        send(mesh, VICTIM, signal.SIGSTOP)
        await until(lambda: load.waiting(0.1) >= 3)
        send(mesh, VICTIM, signal.SIGKILL)
        await until(lambda: mesh.restarts(VICTIM) == 1)
        await load.answered_by(VICTIM)
    assert not load.failures, load.said
    assert await retried(mesh) >= 3


async def test_a_replica_that_hangs_is_left_out_and_its_calls_go_to_others(
    mesh: Mesh, inference: InferenceServiceStub
) -> None:
    async with under_load(predict(inference), CALLERS, who) as load:
        await load.answered_by(VICTIM)
        send(mesh, VICTIM, signal.SIGSTOP)
        await healthy(mesh, 2)
        await load.more(100)
        send(mesh, VICTIM, signal.SIGCONT)
        await load.answered_by(VICTIM)
    assert not load.failures, load.said
    log = (mesh.logs_dir / "balancer.log").read_text()
    port = mesh.addresses.replicas[VICTIM].rpartition(":")[2]
    assert any(port in line for line in log.splitlines() if "eject_unhealthy_event" in line or "EJECT" in line), log


async def test_with_all_replicas_hung_a_call_keeps_its_deadline(mesh: Mesh, inference: InferenceServiceStub) -> None:
    for name in mesh.addresses.replicas:
        send(mesh, name, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await predict(inference, timeout_s=0.5)()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 2
    for name in mesh.addresses.replicas:
        send(mesh, name, signal.SIGCONT)


async def test_a_rolling_restart_fails_no_call(mesh: Mesh, inference: InferenceServiceStub) -> None:
    async with under_load(predict(inference), CALLERS, who) as load:
        for name in mesh.addresses.replicas:
            await load.answered_by(name)
            send(mesh, name, signal.SIGTERM)
            await until(lambda name=name: mesh.restarts(name) == 1)  # type: ignore[misc]
            await load.answered_by(name)
    assert not load.failures, load.said
    assert all("has stopped" in mesh.last_lines(name) for name in mesh.addresses.replicas), "they drained"


async def test_what_one_replica_cannot_take_another_does(mesh: Mesh, inference: InferenceServiceStub) -> None:
    answers = set()
    for status in ("CANCELLED", "UNAVAILABLE"):
        retries = await retried(mesh)
        async with asyncio.timeout(30):
            while await retried(mesh) < retries + 3:
                answers.add(who(await predict(inference, model=f"{VICTIM}:{status}")()))
    assert answers == {"inference_svc-1", "inference_svc-3"}


async def test_what_would_fail_anywhere_is_asked_once_and_speaks_against_no_replica(
    mesh: Mesh, inference: InferenceServiceStub
) -> None:
    names = "upstream_rq_total|upstream_rq_retry|outlier_detection.ejections_enforced_total"
    before = await stats(mesh, names)
    for status in REFUSALS:
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await predict(inference, model=status)()
            assert (caught.value.code().name, "was told to" in str(caught.value.details())) == (status, True)
    after = await stats(mesh, names)
    assert after == {**before, "upstream_rq_total": before["upstream_rq_total"] + 30 * len(REFUSALS)}


async def test_a_replica_that_serves_only_by_its_own_account_is_left_out_but_not_half_of_them(
    mesh: Mesh, inference: InferenceServiceStub
) -> None:
    active = "outlier_detection.ejections_active"
    while not (await stats(mesh, active))[active]:
        await predict(inference, model=f"{VICTIM}:UNAVAILABLE")()

    async def nothing_goes_there() -> bool:
        before = await retried(mesh)
        for _ in range(10):
            await predict(inference, model=f"{VICTIM}:UNAVAILABLE")()
        return await retried(mesh) == before

    await until(nothing_goes_there)  # the threads are told one after another
    # All fail: that must not leave one replica with all the calls, or none.
    for _ in range(30):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predict(inference, model="UNAVAILABLE")()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await stats(mesh, active))[active] == 1


async def test_a_large_request_is_sent_again_too(mesh: Mesh, inference: InferenceServiceStub) -> None:
    row = [1.0] * 1000
    rows = [{"features": row} for _ in range(400)]  # 3.2 MB
    request = pb.BatchPredictRequest(model_name=f"{VICTIM}:UNAVAILABLE", batch=rows)
    answers = []
    async with asyncio.timeout(60):
        while await retried(mesh) < 2:
            answers.append(await inference.BatchPredict(request, timeout=20))
    assert {len(answer.predictions) for answer in answers} == {400}
    assert VICTIM not in set(map(who, answers))


async def test_a_stream_may_be_quiet_and_ends_with_its_replica(tmp_path: Path, redis_url: str) -> None:
    async with (
        balanced(tmp_path / "m", redis_url, replicas=2, replica_try_s=0.05) as mesh,
        unretried(mesh.addresses.inference) as channel,
    ):
        stream = channel.stream_stream("/stub.Stub/Echo")()
        await stream.write(b"one")
        assert await stream.read() == b"one"
        # Many tries' time without a message on it. Calls on one row, meanwhile, are given up on.
        with pytest.raises(grpc.aio.AioRpcError):
            await predict(InferenceServiceStub(channel), model="slow:1")()
        await stream.write(b"two")
        assert await stream.read() == b"two"
        for name in mesh.addresses.replicas:
            send(mesh, name, signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stream.read(), 10)
        # It had begun, so Envoy can only cut it: RST_STREAM, which gRPC calls INTERNAL.
        assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


async def test_a_stream_on_a_replica_that_hangs_ends(mesh: Mesh) -> None:
    async with unretried(mesh.addresses.inference) as channel:
        stream = channel.stream_stream("/stub.Stub/Echo")()
        await stream.write(b"one")
        assert await stream.read() == b"one"
        for name in mesh.addresses.replicas:
            send(mesh, name, signal.SIGSTOP)
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(stream.read(), 60)
        for name in mesh.addresses.replicas:
            send(mesh, name, signal.SIGCONT)


async def test_more_calls_than_the_replicas_bear_are_refused_at_once(tmp_path: Path, redis_url: str) -> None:
    async with (
        balanced(tmp_path / "m", redis_url, replicas=2, max_concurrent_rpcs=2, replica_try_s=30.0) as mesh,
        unretried(mesh.addresses.inference) as channel,
    ):
        inference = InferenceServiceStub(channel)
        async with under_load(predict(inference, model="slow:2"), 4, who) as load:
            await under_way(mesh, 4)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await predict(inference)()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "overflow" in str(caught.value.details())
        assert not load.failures


async def test_the_balancer_ends_when_its_calls_have(tmp_path: Path, redis_url: str) -> None:
    async with balanced(tmp_path / "m", redis_url, replicas=2, replica_try_s=30.0) as mesh:
        channel = unretried(mesh.addresses.inference)
        call = asyncio.ensure_future(predict(InferenceServiceStub(channel), model="slow:1")())
        await under_way(mesh, 1)
    assert who(await call) in mesh.addresses.replicas
    await channel.close()


async def test_a_killed_balancer_comes_back(mesh: Mesh) -> None:
    send(mesh, "balancer", signal.SIGKILL)
    await until(lambda: mesh.restarts("balancer") == 1)
    await mesh.ready(30)
    await all_healthy(mesh)
    async with grpc_client.channel(mesh.addresses.inference) as channel:
        assert who(await predict(InferenceServiceStub(channel))()) in mesh.addresses.replicas
