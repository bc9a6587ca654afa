"""Predictions from all sides while the model is swapped under them: no request fails, and none mixes models."""

from __future__ import annotations

import asyncio

import grpc.aio
import httpx

from examples.us_equities.deployment import STRATEGY, Operator
from examples.us_equities.job import Report
from quantmesh.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from tests.mesh import RunningMesh

SWAPS = 20


async def test_no_request_fails_during_twenty_promotes_and_rollbacks(mesh: RunningMesh, replayed: Report) -> None:
    ended = asyncio.Event()
    row = replayed.last_features
    answers: dict[str, set[float]] = {}
    counts = {"grpc": 0, "rest": 0}

    async def by_grpc(channel: grpc.aio.Channel) -> None:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        while not ended.is_set():
            request = inference_service_pb2.PredictRequest(model_name=STRATEGY, features=row)
            answer = await stub.Predict(request, timeout=5)
            answers.setdefault(answer.model_version, set()).add(answer.prediction)
            counts["grpc"] += 1

    async def by_rest(client: httpx.AsyncClient) -> None:
        while not ended.is_set():
            answer = await client.post("/inference/predict", json={"features": row})
            assert answer.status_code == 200, answer.text
            body = answer.json()
            answers.setdefault(body["model_version"], set()).add(body["prediction"])
            counts["rest"] += 1

    async def swap(channel: grpc.aio.Channel) -> None:
        operator = Operator(channel)
        for number in range(SWAPS):
            before = dict(counts)
            if number % 2:
                await operator.roll_back("storm")
            else:  # the first version serves: the job ended with a rollback to it, as each pair of steps does
                await operator.promote(replayed.versions[1], "storm")
            # Each model answers some, both ways.
            while counts["grpc"] < before["grpc"] + 15 or counts["rest"] < before["rest"] + 3:
                await asyncio.sleep(0.001)

    async with (
        grpc.aio.insecure_channel(mesh.addresses.inference) as inference,
        grpc.aio.insecure_channel(mesh.addresses.mlops) as mlops,
        httpx.AsyncClient(base_url=mesh.addresses.gateway, timeout=5) as client,
    ):
        storm = [asyncio.create_task(by_grpc(inference)) for _ in range(8)]
        storm += [asyncio.create_task(by_rest(client)) for _ in range(4)]
        swapping = asyncio.create_task(swap(mlops))
        await asyncio.wait([*storm, swapping], return_when=asyncio.FIRST_COMPLETED)
        ended.set()
        await asyncio.gather(*storm, swapping)
    assert counts["grpc"] >= SWAPS * 15
    assert counts["rest"] >= SWAPS * 3
    assert set(answers) == set(replayed.versions)
    # One row has one prediction by each version, whoever asked and when, up to the rounding of the batch it was in.
    assert all(max(predictions) - min(predictions) < 1e-6 for predictions in answers.values()), answers
    assert abs(min(answers[replayed.versions[0]]) - min(answers[replayed.versions[1]])) > 1e-5
