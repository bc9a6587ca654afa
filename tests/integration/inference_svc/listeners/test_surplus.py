"""What Envoy answers by itself, surplus calls and bodies that no buffer holds, and what it hands to Python."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from quantmesh.inference.v1 import inference_service_pb2 as pb
from runtime.envoy import bodies
from runtime.grpc_failure import failure_of
from tests.inference_process import Replica, serving
from tests.integration.inference_svc.calls import batch, client
from tests.integration.inference_svc.models import rows
from tests.raw_h2 import PREDICT, call, frame

ROW = [0.5, -1.0, 2.0]
AT_ONCE = 2
LIMIT = 300_000
BATCH_ROWS = 4000
BUSY = {
    "QUANTMESH_MAX_CONCURRENT_RPCS": str(AT_ONCE),
    "QUANTMESH_MAX_MESSAGE_BYTES": str(LIMIT),
    "QUANTMESH_MAX_BATCH_ROWS": str(BATCH_ROWS),
    "INFER_P99_MS_TARGET": "60000",
    "INFER_DETERMINISTIC_RPC": "true",  # a call of the model for each row: a batch takes its time
}

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def limited(home: Path, store: str) -> AsyncIterator[Replica]:
    async with serving(home, store, "envoy", **BUSY) as replica:
        yield replica
    assert "Traceback" not in replica.said
    assert "panicked" not in replica.said


def long_batch() -> pb.BatchPredictRequest:
    return batch(rows(BATCH_ROWS).tolist())


async def metric(replica: Replica, name: str) -> float:
    async with httpx.AsyncClient() as http:
        said = (await http.get(f"http://127.0.0.1:{replica.metrics_port}/metrics")).text
    return next(float(line.split()[1]) for line in said.splitlines() if line.startswith(f"{name} "))


async def test_a_surplus_call_is_told_to_come_again_and_others_go_on(home: Path, store: str) -> None:
    async with limited(home, store) as replica, client(replica.address) as stub:
        alone = await stub.BatchPredict(long_batch(), timeout=60)
        calls = [stub.BatchPredict(long_batch(), timeout=60) for _ in range(20)]
        body = {"features": ROW}
        async with httpx.AsyncClient(base_url=f"http://{replica.address}", timeout=60) as http:
            over_rest = await asyncio.gather(*(http.post("/inference/predict", json=body) for _ in range(4)))
        listed = await stub.ListModels(pb.ListModelsRequest(), timeout=60)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        refused = [error for error in ended if isinstance(error, grpc.aio.AioRpcError)]
        answered = [answer for answer in ended if isinstance(answer, pb.BatchPredictResponse)]
        assert len(refused) + len(answered) == len(calls)
        assert len(answered) >= AT_ONCE
        assert refused
        for error in refused:
            told = failure_of(error)
            assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
            assert told.retry_after_s == pytest.approx(0.05)
            assert "try again" in told.message
        for answer in answered:
            np.testing.assert_array_equal(answer.predictions, alone.predictions)
        assert [model.name for model in listed.models]  # no hot call: has room of its own

        surplus = [answer for answer in over_rest if answer.status_code == 429]
        assert surplus
        for problem in surplus:
            assert problem.headers["content-type"] == "application/problem+json"
            assert problem.headers["retry-after"] == "1"
            assert (problem.json()["reason"], problem.json()["status"]) == ("TOO_MANY_CALLS", 429)
        assert await metric(replica, "quantmesh_surplus_calls_refused_total") == len(refused) + len(surplus)
        assert await metric(replica, "quantmesh_calls_limit") == AT_ONCE
        assert len((await stub.BatchPredict(long_batch(), timeout=60)).predictions) == BATCH_ROWS


async def test_callers_that_send_slowly_take_nobodys_room(home: Path, store: str) -> None:
    async with limited(home, store) as replica:
        slow = [await asyncio.open_connection("127.0.0.1", replica.port) for _ in range(5 * AT_ONCE)]
        for _, writer in slow:
            writer.write(b"POST /inference/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
            await writer.drain()
        async with client(replica.address) as stub:
            for _ in range(3):
                await stub.Predict(pb.PredictRequest(features=ROW), timeout=20)
        for _, writer in slow:
            writer.close()


async def test_a_body_that_no_buffer_holds_is_refused_and_the_next_one_is_not(home: Path, store: str) -> None:
    async with limited(home, store) as replica:
        for size in (LIMIT + 100, 4 * LIMIT):
            message = pb.PredictRequest(packed=pb.PackedRows(rows=1, values=b"x" * size)).SerializeToString()
            options = [("grpc.max_send_message_length", -1)]
            async with grpc.aio.insecure_channel(replica.address, options) as opened:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await opened.unary_unary(PREDICT)(message, timeout=20)
            told = failure_of(raised.value)
            assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
            assert str(LIMIT) in told.message
            assert told.retry_after_s is None
            async with httpx.AsyncClient(base_url=f"http://{replica.address}", timeout=20) as http:
                problem = await http.post("/inference/predict", content=b" " * size)
                assert (problem.status_code, problem.json()["reason"]) == (413, "BODY_TOO_LARGE")
                assert (await http.post("/inference/predict", json={"features": ROW})).status_code == 200


@pytest.mark.parametrize("others", [0, 600])
async def test_a_callers_own_header_is_not_taken_for_the_body(home: Path, store: str, others: int) -> None:
    """`others` rows more make the body too large for a header."""
    method = "/quantmesh.inference.v1.InferenceService/BatchPredict"
    asked = batch(rows(1 + others).tolist()).SerializeToString()
    forged = "AAAAAAA="
    async with limited(home, store) as replica:
        honest = await call(replica.port, frame(asked), path=method)
        answer = await call(replica.port, frame(asked), [(bodies.HEADER, forged)], path=method)
        assert (honest.status, answer.status) == (0, 0)
        got, want = (pb.BatchPredictResponse.FromString(each.body[5:]).predictions for each in (answer, honest))
        assert list(got) == list(want)
        nothing = await call(replica.port, b"", [(bodies.HEADER, forged)], path=method)
        assert nothing.status == grpc.StatusCode.INVALID_ARGUMENT.value[0]
