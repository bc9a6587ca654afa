"""A replica when what it stands on is away, taken or missing."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from inference_svc.app import build
from modelstore.deployments import DeploymentStore
from modelstore.replicas import ReplicaBoard
from quantmesh.inference.v1 import inference_service_pb2 as pb
from runtime.embedded_redis import EmbeddedRedis
from runtime.errors import PortInUseError, UnavailableError
from runtime.grpc_client import channel
from runtime.redis_client import connect
from tests.integration.inference_svc.calls import client
from tests.integration.inference_svc.models import register, replica, ridge, settings
from tests.integration.inference_svc.vectors import publish, signals, vector
from tests.waiting import until

ROW = [0.5, -1.0, 2.0]


async def test_predictions_go_on_without_redis_and_streaming_and_deployments_resume(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    redis = connect(server.url)
    try:
        deployments = DeploymentStore(redis)
        first, second = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
        await deployments.promote("momentum", first, expected_generation=None, reason="", request_id="")
        zeros = [0.0, 0.0, 0.0]

        async def signalled(count: int) -> bool:
            return len(await signals(redis, "momentum")) == count

        async with replica(tmp_path, server.url) as running, client(running.address) as stub:
            await publish(redis, [vector(n, zeros) for n in range(64)])
            await until(lambda: signalled(64))
            await publish(redis, [vector(n, zeros) for n in range(64, 640)])
            await asyncio.to_thread(server.stop)
            for _ in range(200):
                answer = await stub.Predict(pb.PredictRequest(features=ROW))
                assert answer.model_version == first
            async with channel(running.address) as opened:
                health = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest())
                assert health.status == health_pb2.HealthCheckResponse.SERVING

            await asyncio.to_thread(server.start)
            await until(lambda: signalled(640))
            deployed = await deployments.promote(
                "momentum", second, expected_generation=None, reason="", request_id="after"
            )

            async def swapped() -> bool:
                states = await ReplicaBoard(redis).statuses(deployed)
                return [state.swapped for state in states] == [True]

            await until(swapped)
            assert (await stub.Predict(pb.PredictRequest(features=ROW))).model_version == second
            await publish(redis, [vector(n, zeros) for n in range(640, 704)])
            await until(lambda: signalled(704))
        made = await signals(redis, "momentum")
        assert len({signal.signal_id for signal in made}) == 704
    finally:
        await redis.aclose()
        await asyncio.to_thread(server.stop)


async def test_a_replica_stops_while_redis_is_away(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(server.start)
    async with replica(tmp_path, server.url) as running:
        await asyncio.to_thread(server.stop)
        async with asyncio.timeout(10):
            async with client(running.address) as stub:
                await stub.ListModels(pb.ListModelsRequest())


async def test_a_start_without_redis_says_what_to_do(tmp_path: Path) -> None:
    unset = settings(tmp_path, "redis://x").model_copy(update={"redis_url": None})
    with pytest.raises(UnavailableError, match="QUANTMESH_REDIS_URL") as raised:
        await build(unset)
    assert raised.value.reason == "REDIS_NOT_CONFIGURED"
    with pytest.raises(UnavailableError, match="QUANTMESH_REDIS_WAIT_S") as raised:
        await build(settings(tmp_path, "redis://127.0.0.1:1", redis_wait_s=0.3))
    assert raised.value.reason == "REDIS_UNAVAILABLE"


async def test_a_taken_port_is_told_with_its_setting(tmp_path: Path, redis_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUseError, match="QUANTMESH_INFERENCE_PORT"):
            await build(settings(tmp_path, redis_url, inference_port=taken.getsockname()[1]))


async def test_a_wish_for_cuda_is_one_line_and_the_cpu_serves(tmp_path: Path, redis_url: str) -> None:
    with capture_logs() as logs:
        async with replica(tmp_path, redis_url, gpu_enabled=True):
            pass
    assert [line["event"] for line in logs if "INFER_GPU_ENABLED" in line["event"]] == [
        "INFER_GPU_ENABLED is set, but this ONNX Runtime has no CUDA: the CPU serves "
        "(install onnxruntime-gpu in place of onnxruntime)"
    ]


async def test_a_stopped_replica_refuses_calls(tmp_path: Path, redis_url: str) -> None:
    running = await build(settings(tmp_path, redis_url))
    await running.stop()
    async with client(running.address) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListModels(pb.ListModelsRequest())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
