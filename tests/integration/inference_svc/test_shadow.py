"""A challenger scores the champion's rows in a process of its own: what is recorded, and what harms nobody."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from redis.asyncio import Redis

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc
from inference_svc.app import Inference
from inference_svc.shadow import link
from inference_svc.signals import signal_id
from modelstore.artifacts import ArtifactStore
from modelstore.deployments import DeploymentStore
from modelstore.onnx_model import OnnxModel
from modelstore.replicas import ReplicaBoard
from quantmesh.inference.v1 import inference_service_pb2 as pb
from tests.integration.inference_svc import vectors
from tests.integration.inference_svc.calls import batch, client, failure
from tests.integration.inference_svc.models import boosted, looping, register, replica, ridge, rows, table
from tests.integration.inference_svc.shadowing import (
    STRATEGY,
    Standing,
    identities,
    pairs,
    promote,
    shadow_process,
    start_shadow,
    stop_shadow,
    until_pairs,
)
from tests.integration.open_inference.models import classifier
from tests.waiting import until

ROW = [0.5, -1.0, 2.0]


@pytest.fixture
def standing(redis: Redis) -> Standing:
    return Standing(redis)


async def infer(
    running: Inference, row: list[float], identity: str, model: str = STRATEGY, version: str = ""
) -> oip.ModelInferResponse:
    """ModelInfer of one row, all outputs."""
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=identity)
    request.inputs.add(name="X", datatype="FP32", shape=[1, len(row)]).contents.fp32_contents.extend(row)
    async with grpc.aio.insecure_channel(running.address) as channel:
        return await grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)


async def test_each_row_of_a_request_gives_a_pair_with_its_id_and_both_predictions(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore, redis: Redis, standing: Standing
) -> None:
    onnx = ridge(1.0), boosted()[1]
    champion, challenger = (register(tmp_path, each) for each in onnx)
    await promote(deployments, champion)
    deployed = await start_shadow(deployments, challenger)
    matrix = rows(40).astype(np.float32).astype(np.float64)
    async with replica(tmp_path, redis_url, deterministic_rpc=True) as running, client(running.address) as stub:
        await standing.ready(challenger)
        for number in range(3):
            await stub.Predict(pb.PredictRequest(features=matrix[number], request_id=f"one-{number}"))
        unnamed = await stub.Predict(pb.PredictRequest(features=matrix[3]))
        whole = batch(matrix.tolist())
        whole.request_id = "whole"
        await stub.BatchPredict(whole)
        streamed = [pb.StreamPredictRequest(features=matrix[number], request_id=f"s-{number}") for number in range(5)]
        async for answer in stub.StreamPredict(iter(streamed)):
            assert answer.model_version == champion
        await infer(running, matrix[7].tolist(), "open")
        found = await until_pairs(redis, 4 + 40 + 5 + 1)
        counted = await standing.counted(50)
        assert (counted.rows_scored, counted.rows_dropped) == (50, 0)
    at = {(f"one-{n}", 0): n for n in range(3)} | {("whole", n): n for n in range(40)}
    at |= {(unnamed.request_id, 0): 3, ("open", 0): 7} | {(f"s-{n}", 0): n for n in range(5)}
    assert identities(found) == at.keys()
    models = [OnnxModel.load(each) for each in onnx]
    for pair in found:
        row = matrix[at[pair.request_id, pair.row]].reshape(1, -1)
        assert pair.champion.prediction == models[0].predict(row)[0]
        assert pair.challenger.prediction == models[1].predict(row)[0]
        assert (pair.champion.model_version, pair.challenger.model_version) == (champion, challenger)
        assert (pair.strategy, pair.generation) == (STRATEGY, deployed.generation)
        assert pair.champion.latency_us > 0
        assert pair.challenger.latency_us > 0
        assert (pair.champion.batch_rows >= 1, pair.challenger.batch_rows) == (True, 1)
        assert not pair.HasField("as_of")


async def test_a_request_for_every_output_of_a_graph_gives_pairs_too(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, standing: Standing
) -> None:
    challenger = register(tmp_path, boosted()[1])
    await promote(deployments, register(tmp_path, classifier()))
    await start_shadow(deployments, challenger)
    async with replica(tmp_path, redis_url) as running:
        await standing.ready(challenger)
        answer = await infer(running, ROW, "all")
        assert len(answer.outputs) == 2
        (pair,) = await until_pairs(redis, 1)
    row = np.array([ROW])
    assert (pair.request_id, pair.row) == ("all", 0)
    assert pair.champion.prediction == OnnxModel.load(classifier()).predict(row)[0]
    assert pair.challenger.prediction == OnnxModel.load(boosted()[1]).predict(row)[0]


async def test_each_signal_gives_a_pair_with_its_id_and_what_its_vector_was(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, standing: Standing
) -> None:
    champion = register(tmp_path, ridge(1.0), threshold=0.5)
    challenger = register(tmp_path, ridge(2.0), threshold=0.25)
    await promote(deployments, champion)
    deployed = await start_shadow(deployments, challenger)
    given = {(each := vectors.vector(n, row)).vector_hash: each for n, row in enumerate(rows(64).tolist())}
    async with replica(tmp_path, redis_url):
        await standing.ready(challenger)
        await vectors.publish(redis, list(given.values()))
        found = await until_pairs(redis, len(given))
    made = {signal.signal_id: signal for signal in await vectors.signals(redis, STRATEGY)}
    assert {pair.request_id for pair in found} == made.keys()
    for pair in found:
        vector, signal = given[pair.vector_hash], made[pair.request_id]
        assert pair.request_id == signal_id(STRATEGY, pair.vector_hash, champion, deployed.generation)
        assert pair.champion.prediction == signal.prediction
        row = np.array([vector.values])
        assert pair.challenger.prediction == OnnxModel.load(ridge(2.0)).predict(row)[0]
        assert (pair.symbol, pair.as_of) == (vector.symbol, vector.as_of)
        assert (pair.champion_threshold, pair.challenger_threshold) == (0.5, 0.25)


async def test_a_slow_challenger_keeps_nobody_waiting_and_what_it_does_not_score_is_counted(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, standing: Standing
) -> None:
    challenger = register(tmp_path, looping())
    await promote(deployments, register(tmp_path, ridge(1.0)))
    await start_shadow(deployments, challenger)
    slow = [[200_000.0, 0.0, 0.0]] * 8
    quick = rows(4000).tolist()
    async with (
        replica(tmp_path, redis_url, p99_ms_target=60_000, shadow_buffer_kb=64, shadow_cpu_share=1.0) as running,
        client(running.address) as stub,
    ):
        await standing.ready(challenger)
        await stub.BatchPredict(batch(slow))
        for _ in range(3):
            await stub.BatchPredict(batch(quick))
        counted = await standing.counted(12_008)
        assert counted.rows_dropped > 0
        assert counted.rows_scored >= 8
        await until_pairs(redis, counted.rows_scored)


async def test_rows_that_the_challenger_cannot_score_are_counted_and_the_others_recorded(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, standing: Standing
) -> None:
    challenger = register(tmp_path, table(10.0, 20.0, float("nan")))
    await promote(deployments, register(tmp_path, ridge(1.0)))
    await start_shadow(deployments, challenger)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        await standing.ready(challenger)
        await stub.BatchPredict(batch([[0.0, 0.0, 0.0], [7.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        found = await until_pairs(redis, 2)
        assert [pair.challenger.prediction for pair in sorted(found, key=lambda pair: pair.row)] == [10.0, 20.0]
        counted = await standing.counted(4)
        assert (counted.rows_scored, counted.rows_dropped) == (2, 2)


async def test_a_challenger_that_cannot_be_loaded_changes_nothing_but_its_status_until_it_is_mended(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, standing: Standing
) -> None:
    champion, challenger = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    file = tmp_path / "models" / challenger / "model.onnx"
    whole = file.read_bytes()
    file.write_bytes(b"damaged")
    await promote(deployments, champion)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        deployed = await start_shadow(deployments, challenger)
        assert "ARTIFACT_CORRUPT" in await standing.error()
        (state,) = await ReplicaBoard(redis).statuses(deployed)
        assert (state.swapped, state.error) == (True, "")
        answer = await stub.Predict(pb.PredictRequest(features=ROW))
        assert (answer.model_version, answer.generation) == (champion, deployed.generation)
        assert (await standing.counted(1)).rows_dropped == 1
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Predict(pb.PredictRequest(model_name="challenger", features=ROW))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failure(refused.value).reason == "CHALLENGER_NOT_READY"
        file.write_bytes(whole)
        await standing.ready(challenger)
        await stub.Predict(pb.PredictRequest(features=ROW))
        await until_pairs(redis, 1)


async def test_a_challenger_does_not_score_rows_of_other_columns_than_its_own(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, standing: Standing
) -> None:
    champion, challenger = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    store = ArtifactStore(tmp_path / "models")
    turned = replace(store.get(champion).manifest, feature_names=("rsi_14d", "volatility_20d", "momentum_20d"))
    other = store.put(turned, ridge(3.0)).version
    await promote(deployments, champion)
    await start_shadow(deployments, challenger)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        await standing.ready(challenger)
        await promote(deployments, other)
        assert "CHAMPION_COLUMNS_MISMATCH" in await standing.error()
        assert (await stub.Predict(pb.PredictRequest(features=ROW))).model_version == other
        assert (await standing.counted(1)).rows_dropped == 1
        direct = await stub.Predict(pb.PredictRequest(model_name="challenger", features=ROW))
        assert direct.model_version == challenger, "who asks for it knows its columns"
        assert await pairs(redis) == []


async def test_a_shadow_process_that_hangs_is_killed_and_started_anew(
    tmp_path: Path,
    redis_url: str,
    redis: Redis,
    deployments: DeploymentStore,
    standing: Standing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "LOOK_S", 0.1)
    challenger = register(tmp_path, ridge(2.0))
    await promote(deployments, register(tmp_path, ridge(1.0)))
    await start_shadow(deployments, challenger)
    async with replica(tmp_path, redis_url):
        await standing.ready(challenger)
        first = shadow_process(os.getpid())
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        with monkeypatch.context() as impatient:
            impatient.setattr(link, "SILENT_S", 1.0)
            assert "ended" in await standing.error()
        await standing.ready(challenger)
        assert shadow_process(os.getpid()) not in (None, first)


async def test_nothing_runs_and_nothing_is_taken_without_a_challenger(
    tmp_path: Path, redis_url: str, redis: Redis, deployments: DeploymentStore, standing: Standing
) -> None:
    champion, challenger = register(tmp_path, ridge(1.0)), register(tmp_path, ridge(2.0))
    await promote(deployments, champion)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        assert shadow_process(os.getpid()) is None
        await start_shadow(deployments, challenger)
        await standing.ready(challenger)
        await promote(deployments, challenger)  # and so it is no challenger any more
        await until(lambda: shadow_process(os.getpid()) is None, 20)
        assert await standing.now() is None
        answer = await stub.Predict(pb.PredictRequest(features=ROW))
        assert (answer.model_version, await pairs(redis)) == (challenger, [])
        await start_shadow(deployments, champion)
        await standing.ready(champion)
        await stop_shadow(deployments)
        await until(lambda: shadow_process(os.getpid()) is None, 20)


@pytest.fixture
async def challenged(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore, standing: Standing
) -> AsyncIterator[tuple[Inference, str]]:
    """A replica with a challenger that fails on a first feature beyond its table."""
    challenger = register(tmp_path, table(10.0, 20.0), name="tabled")
    await promote(deployments, register(tmp_path, ridge(1.0)))
    await start_shadow(deployments, challenger)
    async with replica(tmp_path, redis_url) as running:
        await standing.ready(challenger)
        yield running, challenger


async def test_a_challenger_answers_under_its_names_and_its_digest(challenged: tuple[Inference, str]) -> None:
    running, challenger = challenged
    async with client(running.address) as stub:
        for name in ("challenger", f"{STRATEGY}@challenger", challenger):
            answer = await stub.Predict(pb.PredictRequest(model_name=name, features=[1.0, 0.0, 0.0], request_id="r"))
            assert (answer.prediction, answer.model_version, answer.request_id) == (20.0, challenger, "r")
            assert (answer.model_name, answer.batch_rows) == (name, 1)
        many = await stub.BatchPredict(batch([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], "challenger"))
        assert (list(many.predictions), many.model_version) == ([10.0, 20.0], challenger)
        request = pb.StreamPredictRequest(model_name="challenger", features=[1.0, 0.0, 0.0])
        streamed = [answer async for answer in stub.StreamPredict(iter([request]))]
        assert [list(answer.predictions) for answer in streamed] == [[20.0]]
        listed = (await stub.ListModels(pb.ListModelsRequest())).models
        assert [(each.alias, each.name) for each in listed] == [("champion", "model"), ("challenger", "tabled")]
        described = (await stub.GetModel(pb.GetModelRequest(model_name="challenger"))).model
        assert (described.version, described.alias, len(described.feature_names)) == (challenger, "challenger", 3)


async def test_what_a_challenger_cannot_answer_is_told_as_a_champion_tells_it(
    challenged: tuple[Inference, str],
) -> None:
    running, _ = challenged
    async with client(running.address) as stub:
        for row, code, reason in (
            ([7.0, 0.0, 0.0], grpc.StatusCode.FAILED_PRECONDITION, "MODEL_FAILED"),
            ([1e300, 0.0, 0.0], grpc.StatusCode.INVALID_ARGUMENT, "OUT_OF_RANGE"),
            ([1.0], grpc.StatusCode.INVALID_ARGUMENT, "FEATURE_COUNT_MISMATCH"),
            ([float("nan"), 0.0, 0.0], grpc.StatusCode.INVALID_ARGUMENT, "NON_FINITE_FEATURE"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Predict(pb.PredictRequest(model_name="challenger", features=row))
            assert (raised.value.code(), failure(raised.value).reason) == (code, reason)


async def test_the_open_inference_protocol_does_not_reach_a_challenger(challenged: tuple[Inference, str]) -> None:
    running, challenger = challenged
    for model, version in ((f"{STRATEGY}@challenger", ""), (challenger, ""), (STRATEGY, challenger)):
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await infer(running, ROW, "", model, version)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    async with grpc.aio.insecure_channel(running.address) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        index = await stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=10)
        assert challenger not in {each.version for each in index.models}
        ready = await stub.ModelReady(oip.ModelReadyRequest(name="challenger"), timeout=10)
        assert not ready.ready
