"""InferenceService as a client sees it: real server, real models, real Redis."""

from __future__ import annotations

import math
import time
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_svc.service import SERVICE_NAME
from modelstore.deployments import DeploymentStore
from quantmesh.inference.v1 import inference_service_pb2 as pb
from runtime.grpc_client import channel
from runtime.times import to_us
from tests.integration.inference_svc.calls import Failure, batch, client, failure
from tests.integration.inference_svc.models import (
    FEATURE_SET,
    FEATURES,
    boosted,
    expected,
    register,
    replica,
    ridge,
    rows,
    table,
)

ROW = [0.5, -1.0, 2.0]
MANY = 65
"""Rows that take several calls of a model."""


async def test_predict_answers_with_the_model_and_the_call_named(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore
) -> None:
    version = register(tmp_path, ridge(1.0))
    await deployments.promote("momentum", version, expected_generation=None, reason="", request_id="")
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        before_us = time.time_ns() // 1000
        answer = await stub.Predict(pb.PredictRequest(features=ROW, request_id="call-1", metadata={"desk": "a"}))
        assert answer.prediction == pytest.approx(expected(1.0, ROW), abs=1e-4)
        assert (answer.model_name, answer.model_version, answer.generation) == ("champion", version, 1)
        assert (answer.request_id, dict(answer.metadata)) == ("call-1", {"desk": "a"})
        assert before_us <= to_us(answer.timestamp) <= time.time_ns() // 1000
        assert 0 < answer.latency_ms < 1000
        for name in ("momentum", "momentum@champion", version):
            named = await stub.Predict(pb.PredictRequest(model_name=name, features=ROW))
            assert (named.prediction, named.model_name) == (answer.prediction, name)
            assert named.request_id


@pytest.mark.parametrize("count", [1, MANY, 1000], ids=["one", "several", "many"])
async def test_batch_predictions_come_in_the_order_of_the_rows(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore, count: int
) -> None:
    model, onnx = boosted()
    version = register(tmp_path, onnx)
    await deployments.promote("momentum", version, expected_generation=None, reason="", request_id="")
    matrix = rows(count, seed=11)
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        answer = await stub.BatchPredict(batch(matrix.tolist()))
    assert np.allclose(answer.predictions, model.predict(matrix), atol=1e-5)
    assert (answer.batch_size, answer.model_version, answer.generation) == (count, version, 1)


async def test_models_are_listed_and_described(tmp_path: Path, redis_url: str, deployments: DeploymentStore) -> None:
    first = register(tmp_path, ridge(1.0), name="first")
    second = register(tmp_path, ridge(2.0), name="second")
    other = register(tmp_path, ridge(3.0), strategy="carry", name="third")
    for strategy, version in (("momentum", first), ("momentum", second), ("carry", other)):
        await deployments.promote(strategy, version, expected_generation=None, reason="", request_id="")
    async with replica(tmp_path, redis_url, default_strategy="momentum") as running, client(running.address) as stub:
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        assert [(m.strategy, m.alias, m.name, m.version, m.generation) for m in models] == [
            ("carry", "champion", "third", other, 1),
            ("momentum", "champion", "second", second, 2),
            ("momentum", "previous", "first", first, 2),
        ]
        only = (await stub.ListModels(pb.ListModelsRequest(strategy="carry"))).models
        assert [m.version for m in only] == [other]
        model = (await stub.GetModel(pb.GetModelRequest())).model
        assert model == models[1]
        assert (tuple(model.feature_names), model.prediction_unit, model.feature_set) == (
            FEATURES,
            "fraction",
            FEATURE_SET,
        )
        assert model.HasField("loaded_at")
        previous = (await stub.GetModel(pb.GetModelRequest(model_name=first))).model
        assert (previous.alias, previous.name) == ("previous", "first")


async def test_the_service_is_serving_before_anything_is_deployed(tmp_path: Path, redis_url: str) -> None:
    async with replica(tmp_path, redis_url) as running, channel(running.address) as opened:
        health = health_pb2_grpc.HealthStub(opened)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with client(running.address) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Predict(pb.PredictRequest(features=ROW))
            found = failure(raised.value)
            assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
            assert "promote" in found.message


INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD_PREDICTS = {
    "too few": (pb.PredictRequest(features=[1, 2]), INVALID, "FEATURE_COUNT_MISMATCH", ("features",)),
    "none": (pb.PredictRequest(), INVALID, "FEATURE_COUNT_MISMATCH", ("features",)),
    "nan": (pb.PredictRequest(features=[1, math.nan, 3]), INVALID, "NON_FINITE_FEATURE", ("features[1]",)),
    "infinities": (
        pb.PredictRequest(features=[math.inf, 2, -math.inf]),
        INVALID,
        "NON_FINITE_FEATURE",
        ("features[0]", "features[2]"),
    ),
    "unknown strategy": (
        pb.PredictRequest(model_name="carry", features=ROW),
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_MODEL",
        ("model_name",),
    ),
    "unknown version": (
        pb.PredictRequest(model_name="0" * 64, features=ROW),
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_MODEL",
        ("model_name",),
    ),
    "no challenger": (
        pb.PredictRequest(model_name="challenger", features=ROW),
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_MODEL",
        ("model_name",),
    ),
    "not a name": (pb.PredictRequest(model_name="a b!", features=ROW), INVALID, "INVALID_MODEL_NAME", ("model_name",)),
    "long id": (pb.PredictRequest(features=ROW, request_id="x" * 129), INVALID, "INVALID_FIELD", ("request_id",)),
    "many labels": (
        pb.PredictRequest(features=ROW, metadata={str(n): "" for n in range(33)}),
        INVALID,
        "INVALID_FIELD",
        ("metadata",),
    ),
    "too large for the model": (
        pb.PredictRequest(features=[1e308, -1e39, 1.0]),
        INVALID,
        "OUT_OF_RANGE",
        ("features[0]", "features[1]"),
    ),
}
BAD_BATCHES = {
    "empty": (batch([]), INVALID, "INVALID_FIELD", ("batch",)),
    "one row too long": (
        batch([ROW, [1, 2, 3, 4]]),
        INVALID,
        "FEATURE_COUNT_MISMATCH",
        ("batch[1].features",),
    ),
    "nan": (batch([ROW, [1, 2, math.nan]]), INVALID, "NON_FINITE_FEATURE", ("batch[1].features[2]",)),
    "nan in a later call": (
        batch([ROW] * MANY + [[1, 2, math.nan]]),
        INVALID,
        "NON_FINITE_FEATURE",
        (f"batch[{MANY}].features[2]",),
    ),
    "over the limit": (batch([ROW] * 101), grpc.StatusCode.RESOURCE_EXHAUSTED, "BATCH_TOO_LARGE", ("batch",)),
    "unknown": (batch([ROW], "carry@champion"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL", ("model_name",)),
}


async def test_bad_input_is_told_by_status_reason_and_field(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore
) -> None:
    version = register(tmp_path, ridge(1.0))
    await deployments.promote("momentum", version, expected_generation=None, reason="", request_id="")
    async with replica(tmp_path, redis_url, max_batch_rows=100) as running, client(running.address) as stub:
        found: dict[str, Failure] = {}
        for name, (request, *_) in (BAD_PREDICTS | BAD_BATCHES).items():
            call = stub.BatchPredict if isinstance(request, pb.BatchPredictRequest) else stub.Predict
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(request)  # type: ignore[arg-type]
            found[name] = failure(raised.value)
        assert {name: (f.code, f.reason, f.fields) for name, f in found.items()} == {
            name: (code, reason, fields) for name, (_, code, reason, fields) in (BAD_PREDICTS | BAD_BATCHES).items()
        }
        assert "momentum@champion" in found["unknown strategy"].message, "says what there is"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetModel(pb.GetModelRequest(model_name="carry"))
        assert failure(raised.value).reason == "UNKNOWN_MODEL"
        assert (await stub.Predict(pb.PredictRequest(features=ROW))).generation == 1, "and all goes on"


async def test_an_error_with_long_texts_still_fits_its_trailer(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore
) -> None:
    version = register(tmp_path, ridge(1.0))
    for number in range(40):
        await deployments.promote(
            f"strategy-{number:02}-{'x' * 50}", version, expected_generation=None, reason="", request_id=""
        )
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        for request, reason in (
            (pb.PredictRequest(), "NO_DEFAULT_STRATEGY"),
            (pb.PredictRequest(model_name="carry"), "UNKNOWN_MODEL"),
            (pb.PredictRequest(metadata={f"{n:0256}": "v" * 300 for n in range(32)}), "INVALID_FIELD"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Predict(request)
            assert failure(raised.value).reason == reason


async def test_a_row_that_makes_the_model_fail_is_named(
    tmp_path: Path, redis_url: str, deployments: DeploymentStore
) -> None:
    version = register(tmp_path, table(10.0, 20.0))
    await deployments.promote("momentum", version, expected_generation=None, reason="", request_id="")
    beyond = [9.0, 0.0, 0.0]
    async with replica(tmp_path, redis_url) as running, client(running.address) as stub:
        for call in (
            stub.Predict(pb.PredictRequest(features=beyond)),
            stub.BatchPredict(batch([[0.0] * 3, [1.0] * 3, beyond])),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            found = failure(raised.value)
            assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_FAILED")
        assert "row 2" in found.message
        answer = await stub.BatchPredict(batch([[0.0] * 3, [1.0] * 3]))
        assert list(answer.predictions) == [10.0, 20.0]
