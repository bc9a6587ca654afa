"""How a replica comes up and ends, with either listener: nothing is lost, and exit codes mean something."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import grpc
import grpc.aio
import pytest

from modelstore.deployments import DeploymentStore
from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from runtime.ports import free_port
from runtime.supervisor.services import INFERENCE, health
from tests.inference_process import LISTENERS, serving, start
from tests.integration.inference_svc.models import boosted, register
from tests.waiting import until

REQUEST = pb.PredictRequest(features=[0.5, -1.0, 2.0])
pytestmark = [pytest.mark.parametrize("listener", LISTENERS), pytest.mark.timeout(120)]


async def deploy(home: Path, deployments: DeploymentStore) -> None:
    version = register(home, boosted()[1])
    await deployments.promote("momentum", version, expected_generation=None, reason="", request_id="")


async def test_calls_in_flight_are_answered_at_sigterm_and_the_exit_is_clean(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore, listener: str
) -> None:
    await deploy(tmp_path, deployments)
    outcomes: list[grpc.StatusCode] = []
    async with serving(tmp_path, redis_url, listener) as replica:
        ended = asyncio.Event()

        async def client() -> None:
            async with grpc.aio.insecure_channel(replica.address) as channel:
                stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
                while not ended.is_set():
                    try:
                        await stub.Predict(REQUEST, timeout=10)
                        outcomes.append(grpc.StatusCode.OK)
                    except grpc.aio.AioRpcError as error:
                        outcomes.append(error.code())
                        await asyncio.sleep(0.01)

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await until(lambda: len(outcomes) > 500)
        replica.end()
        assert await replica.code() == 0, replica.said
        ended.set()
        await asyncio.gather(*clients)
    # A client may retry UNAVAILABLE: the call was not run. Nothing else may happen to it, but that grpcio says
    # CANCELLED to a call that comes while it stops.
    told = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert set(outcomes) <= (told | {grpc.StatusCode.CANCELLED} if listener == "grpcio" else told)
    assert outcomes.index(grpc.StatusCode.OK) == 0


async def test_what_cannot_be_is_told_by_the_exit_code(tmp_path: Path, redis_url: str, listener: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for variables, code, said in (
            ({"QUANTMESH_INFERENCE_PORT": port}, 78, "QUANTMESH_INFERENCE_PORT"),
            ({"QUANTMESH_INFERENCE_METRICS_PORT": port}, 78, "QUANTMESH_INFERENCE_METRICS_PORT"),
            (
                {"QUANTMESH_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", "QUANTMESH_REDIS_WAIT_S": "0.3"},
                69,
                "Redis",
            ),
            ({"INFER_BATCH_SIZE": "0"}, 78, "INFER_BATCH_SIZE"),
        ):
            replica = start(tmp_path, redis_url, listener, **variables)
            assert (await replica.code(), variables) == (code, variables), replica.said
            assert said in replica.said
            assert "envoy critical" not in replica.said


async def test_nothing_is_left_of_one_that_was_killed(tmp_path: Path, redis_url: str, listener: str) -> None:
    async with serving(tmp_path, redis_url, listener) as replica:
        replica.end(signal.SIGKILL)
        await replica.code()

        def refused() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", replica.port)) != 0

        await until(refused)


async def test_two_replicas_do_not_share_a_port(tmp_path: Path, redis_url: str, listener: str) -> None:
    async with serving(tmp_path, redis_url, listener) as replica:
        for other in LISTENERS:
            second = start(tmp_path, redis_url, other, QUANTMESH_INFERENCE_PORT=str(replica.port))
            assert await second.code() == 78, second.said


async def test_a_host_may_be_a_name(tmp_path: Path, redis_url: str, listener: str) -> None:
    replica = start(tmp_path, redis_url, listener, QUANTMESH_HOST="localhost")
    try:

        async def is_up() -> bool:
            assert replica.process.poll() is None, replica.said
            return await health(f"localhost:{replica.port}", INFERENCE) == "SERVING"

        await until(is_up, 40)
    finally:
        replica.end()
    assert await replica.code() == 0, replica.said


async def test_one_that_waits_for_redis_ends_at_sigterm(tmp_path: Path, listener: str) -> None:
    replica = start(tmp_path, f"redis://127.0.0.1:{free_port()}/0", listener)
    await until(lambda: "waiting for Redis" in replica.said, 20)
    replica.end()
    assert await replica.code() == 0, replica.said
