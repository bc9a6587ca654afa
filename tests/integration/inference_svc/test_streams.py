"""StreamPredict over a real connection: order, faults that stay alone, packed rows, a swap in between, flow control."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from inference_svc import metrics
from modelstore.deployments import DeploymentStore
from modelstore.onnx_model import OnnxModel
from quantmesh.inference.v1 import inference_service_pb2 as pb
from tests.integration.inference_svc.calls import client, failure
from tests.integration.inference_svc.models import FEATURES, boosted, expected, register, replica, ridge, rows


def packed(matrix: np.ndarray, dtype: str = "<f8") -> pb.PackedRows:
    kind = pb.FLOAT_TYPE_FLOAT32 if dtype == "<f4" else pb.FLOAT_TYPE_FLOAT64
    return pb.PackedRows(type=kind, rows=len(matrix), values=matrix.astype(dtype).tobytes())


async def deploy(home: Path, deployments: DeploymentStore, onnx: bytes, generation: int | None = None) -> str:
    version = register(home, onnx)
    await deployments.promote("momentum", version, expected_generation=generation, reason="", request_id="")
    return version


async def test_a_stream_answers_each_request_in_order_and_a_fault_alone(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore
) -> None:
    version = await deploy(tmp_path, deployments, boosted()[1])
    model, matrix = OnnxModel.load(boosted()[1]), rows(500)
    requests = [pb.StreamPredictRequest(features=row, request_id=str(n)) for n, row in enumerate(matrix)]
    requests[100] = pb.StreamPredictRequest(features=[1.0], request_id="100")
    requests[200] = pb.StreamPredictRequest(features=[1.0, math.nan, 2.0], request_id="200")
    requests[300] = pb.StreamPredictRequest(features=matrix[300], model_name="nobody", request_id="300")
    requests[400] = pb.StreamPredictRequest(packed=packed(matrix, "<f4"), request_id="400")
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        answers = [answer async for answer in stub.StreamPredict(iter(requests))]
    assert [answer.request_id for answer in answers] == [str(n) for n in range(500)]
    faults = {n: (a.error.code, a.error.reason, a.error.field) for n, a in enumerate(answers) if a.HasField("error")}
    assert faults == {
        100: (3, "FEATURE_COUNT_MISMATCH", "features"),
        200: (3, "NON_FINITE_FEATURE", "features[1]"),
        300: (5, "UNKNOWN_MODEL", "model_name"),
    }
    assert np.allclose(answers[400].predictions, model.predict(matrix.astype(np.float32)), atol=1e-6)
    assert sum(shape.rows for shape in answers[400].shapes) == 500
    good = [n for n in range(500) if n not in faults and n != 400]
    assert np.allclose([answers[n].predictions[0] for n in good], model.predict(matrix)[good], atol=1e-6)
    assert {answers[n].model_version for n in good} == {version}


async def test_a_stream_goes_over_to_what_is_promoted_while_it_is_open(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore
) -> None:
    await deploy(tmp_path, deployments, ridge(1.0))
    row = [0.1, 0.2, 0.3]
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        stream = stub.StreamPredict()
        await stream.write(pb.StreamPredictRequest(features=row))
        first = await stream.read()
        await deploy(tmp_path, deployments, ridge(5.0), 1)
        assert isinstance(first, pb.StreamPredictResponse)
        assert first.predictions[0] == pytest.approx(expected(1.0, row))

        async def swapped() -> bool:
            await stream.write(pb.StreamPredictRequest(features=row))
            answer = await stream.read()
            assert isinstance(answer, pb.StreamPredictResponse)
            level = 1.0 if answer.generation == 1 else 5.0
            assert answer.predictions[0] == pytest.approx(expected(level, row), abs=1e-5)
            return answer.generation == 2

        async with asyncio.timeout(10):
            while not await swapped():
                pass
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_who_does_not_read_is_not_read_from(tmp_path: Path, redis_url: str, deployments: DeploymentStore) -> None:
    await deploy(tmp_path, deployments, ridge(1.0))
    request = pb.StreamPredictRequest(packed=packed(rows(4000)))
    before = metrics.PREDICTIONS.labels("momentum").value

    def scored() -> float:
        return (metrics.PREDICTIONS.labels("momentum").value - before) / 4000

    async def endless() -> AsyncIterator[pb.StreamPredictRequest]:
        while True:
            yield request

    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        stream = stub.StreamPredict(endless())
        last = -1.0
        async with asyncio.timeout(30):
            while not last == scored() > 0:  # no more is scored
                last = scored()
                await asyncio.sleep(0.5)
        assert last < 1000  # a window, and what the transport has room for: some megabytes of answers
        async with asyncio.timeout(30):
            while scored() == last:
                assert (await stream.read()).shapes  # type: ignore[union-attr]
        stream.cancel()


async def test_a_packed_batch_gives_the_same_bits_as_numbers(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore
) -> None:
    await deploy(tmp_path, deployments, boosted()[1])
    matrix = rows(100)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        numbers = await stub.BatchPredict(
            pb.BatchPredictRequest(batch=[pb.FeatureRow(features=row) for row in matrix], priority=pb.PRIORITY_HIGH)
        )
        bytes_ = await stub.BatchPredict(pb.BatchPredictRequest(packed=packed(matrix)))
        one = await stub.Predict(pb.PredictRequest(packed=packed(matrix[:1]), priority=pb.PRIORITY_LOW))
        with pytest.raises(grpc.aio.AioRpcError) as two:
            await stub.Predict(pb.PredictRequest(packed=packed(matrix[:2])))
    assert list(numbers.predictions) == list(bytes_.predictions)
    assert one.prediction == pytest.approx(numbers.predictions[0], abs=1e-6)
    assert one.batch_rows == 1
    assert [(shape.rows, shape.batch_rows) for shape in bytes_.shapes] == [(32, 32)] * 3 + [(4, 4)]
    assert failure(two.value).fields == ("packed.rows",)
    assert len(FEATURES) * 8 * 100 == len(packed(matrix).values)
