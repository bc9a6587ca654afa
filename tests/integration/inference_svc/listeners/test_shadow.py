"""Shadow mode of a replica as users run it, with either listener: what becomes of the shadow process harms nobody."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc.aio
import pytest
from redis.asyncio import Redis

from modelstore.deployments import DeploymentStore
from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from tests.inference_process import LISTENERS, serving
from tests.integration.inference_svc.calls import failure
from tests.integration.inference_svc.models import boosted, register, ridge
from tests.integration.inference_svc.shadowing import (
    Standing,
    pairs,
    promote,
    shadow_process,
    start_shadow,
    stop_shadow,
)
from tests.waiting import until

ROW = [0.5, -1.0, 2.0]
UNBOUND = {"INFER_SHADOW_CPU_SHARE": "1"}
pytestmark = [pytest.mark.parametrize("listener", LISTENERS), pytest.mark.timeout(120)]


async def test_the_champion_answers_while_the_shadow_process_is_killed_stopped_and_sent_away(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, listener: str
) -> None:
    champion, challenger = register(tmp_path, ridge(1.0)), register(tmp_path, boosted()[1])
    await promote(deployments, champion)
    await start_shadow(deployments, challenger)
    standing = Standing(redis)
    async with serving(tmp_path, redis_url, listener, **UNBOUND) as replica:
        await standing.ready(challenger)
        pid = shadow_process(replica.process.pid)
        assert pid is not None
        if hasattr(os, "SCHED_IDLE"):
            assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        async with grpc.aio.insecure_channel(replica.address) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            asked = 0

            async def ask(rows: int) -> None:
                nonlocal asked
                for _ in range(rows):
                    request = pb.PredictRequest(features=ROW, request_id=f"r{asked}")
                    answer = await stub.Predict(request, timeout=10)
                    assert answer.model_version == champion
                    asked += 1

            await ask(50)

            async def all_written() -> bool:
                return len(await pairs(redis)) == 50

            await until(all_written, 20)
            direct = await stub.Predict(pb.PredictRequest(model_name="challenger", features=ROW), timeout=10)
            assert direct.model_version == challenger

            os.kill(pid, signal.SIGKILL)

            async def restarted() -> bool:
                await ask(5)
                again, shadow = shadow_process(replica.process.pid), await standing.now()
                return again not in (None, pid) and shadow is not None and shadow.ready

            await until(restarted, 30)
            stopped = shadow_process(replica.process.pid)
            assert stopped is not None
            os.kill(stopped, signal.SIGSTOP)
            await ask(200)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await stub.Predict(pb.PredictRequest(model_name="challenger", features=ROW), timeout=0.3)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            os.kill(stopped, signal.SIGKILL)

            async def accounted() -> bool:
                shadow = await standing.now()
                counted = shadow is not None and shadow.rows_scored + shadow.rows_dropped == asked
                return counted and shadow is not None and shadow.rows_dropped >= 200

            await until(accounted, 20)
            await standing.ready(challenger)

            await stop_shadow(deployments)

            async def gone() -> bool:
                return shadow_process(replica.process.pid) is None

            await until(gone, 20)
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.Predict(pb.PredictRequest(model_name="challenger", features=ROW), timeout=10)
            assert failure(unknown.value).reason == "UNKNOWN_MODEL"
            await ask(5)


async def test_a_replica_that_is_killed_leaves_no_shadow_process(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, listener: str
) -> None:
    await promote(deployments, register(tmp_path, ridge(1.0)))
    await start_shadow(deployments, register(tmp_path, ridge(2.0)))
    async with serving(tmp_path, redis_url, listener, **UNBOUND) as replica:
        await until(lambda: shadow_process(replica.process.pid) is not None, 20)
        pid = shadow_process(replica.process.pid)
        replica.end(signal.SIGKILL)
        await replica.code()
        await until(lambda: _has_ended(pid), 10)


def _has_ended(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_it_ends_in_order_with_its_replica(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, listener: str
) -> None:
    await promote(deployments, register(tmp_path, ridge(1.0)))
    challenger = register(tmp_path, ridge(2.0))
    await start_shadow(deployments, challenger)
    async with serving(tmp_path, redis_url, listener, **UNBOUND) as replica:
        await Standing(redis).ready(challenger)
        async with grpc.aio.insecure_channel(replica.address) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            await asyncio.gather(*(stub.Predict(pb.PredictRequest(features=ROW), timeout=10) for _ in range(20)))
        replica.end()
        assert await replica.code() == 0, replica.said
    assert "Traceback" not in replica.said
    assert len(await pairs(redis)) == 20
