"""RegisterModel over gRPC: real ONNX models in, versions out, and nothing stored of what is not right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from redis.asyncio import Redis
from skl2onnx import to_onnx
from sklearn.linear_model import Ridge

from mlops_svc.convert import manifest
from mlops_svc.settings import MlopsSettings
from modelstore.artifacts import ArtifactStore
from modelstore.onnx_model import OnnxModel
from quantmesh.mlops.v1 import mlops_service_pb2 as messages
from tests.integration.mlops_svc import models
from tests.integration.mlops_svc.calls import failed, fields, register
from tests.stored import versions

if TYPE_CHECKING:  # the stubs name it, the generated code does not have it
    from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceAsyncStub

ONNX = models.linear([0.5, -1.0])


@pytest.fixture
def artifacts(settings: MlopsSettings) -> ArtifactStore:
    return ArtifactStore(settings.home / "models")


async def test_a_scikit_learn_model_is_stored_and_predicts_the_same(
    stub: MlopsServiceAsyncStub, artifacts: ArtifactStore
) -> None:
    random = np.random.default_rng(7)
    rows = random.normal(size=(50, 4)).astype(np.float32)
    ridge = Ridge().fit(rows, rows @ [1.0, -2.0, 0.5, 0.0])
    onnx = to_onnx(ridge, rows[:1], target_opset=17).SerializeToString()
    response = await register(stub, onnx, models.manifest(columns=4))
    model = response.model
    assert (model.onnx_sha256, model.onnx_size_bytes) == (models.digest(onnx), len(onnx))
    assert manifest(model.manifest) == models.manifest(columns=4)
    stored = OnnxModel.load(artifacts.load_onnx(model.version))
    np.testing.assert_allclose(stored.predict(rows), ridge.predict(rows), rtol=1e-4, atol=1e-5)


async def test_the_same_artifact_gives_the_same_version(stub: MlopsServiceAsyncStub, settings: MlopsSettings) -> None:
    first = await register(stub, ONNX)
    assert await register(stub, ONNX, chunk_bytes=7) == first
    assert versions(settings.home / "models") == [first.model.version]


async def test_a_request_id_stands_for_one_model(
    stub: MlopsServiceAsyncStub, settings: MlopsSettings, redis: Redis
) -> None:
    first = await register(stub, ONNX, request_id="r")
    assert await register(stub, ONNX, request_id="r") == first
    failure = await failed(register(stub, models.linear([3.0, 4.0]), request_id="r"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert fields(failure) == ["request_id"]
    assert versions(settings.home / "models") == [first.model.version]


@pytest.mark.parametrize("data", [b"this is not ONNX", ONNX[: len(ONNX) // 2], b"\x00" * 5000])
async def test_corrupt_onnx_is_refused(stub: MlopsServiceAsyncStub, settings: MlopsSettings, data: bytes) -> None:
    failure = await failed(register(stub, data, request_id="r"))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert fields(failure) == ["chunk"]
    assert versions(settings.home / "models") == []
    # The id was not spent on it.
    await register(stub, ONNX, request_id="r")


async def test_a_digest_that_does_not_match_is_refused(stub: MlopsServiceAsyncStub, settings: MlopsSettings) -> None:
    failure = await failed(register(stub, ONNX, onnx_sha256=models.digest(b"other")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH")
    assert fields(failure) == ["onnx_sha256"]
    assert versions(settings.home / "models") == []


async def test_a_manifest_that_does_not_fit_is_refused(stub: MlopsServiceAsyncStub, settings: MlopsSettings) -> None:
    failure = await failed(register(stub, ONNX, models.manifest(columns=3)))
    assert (failure.reason, fields(failure)) == ("COLUMN_MISMATCH", ["manifest.feature_names"])
    failure = await failed(register(stub, ONNX, models.manifest(strategy="Not OK")))
    assert fields(failure) == ["manifest.strategy"]
    assert versions(settings.home / "models") == []


async def test_a_model_over_the_limit_is_refused_while_it_comes(
    stub: MlopsServiceAsyncStub, settings: MlopsSettings
) -> None:
    failure = await failed(register(stub, bytes(1_600_000), chunk_bytes=500_000))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_TOO_LARGE")
    failure = await failed(register(stub, bytes(1_300_000), chunk_bytes=1_200_000))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CHUNK_TOO_LARGE")
    assert versions(settings.home / "models") == []


async def test_chunks_without_a_header_are_refused(stub: MlopsServiceAsyncStub) -> None:
    failure = await failed(stub.RegisterModel(iter([messages.RegisterModelRequest(chunk=ONNX)]), timeout=20))
    assert (failure.reason, fields(failure)) == ("HEADER_MISSING", ["header"])
    failure = await failed(stub.RegisterModel(iter([]), timeout=20))
    assert (failure.reason, fields(failure)) == ("HEADER_MISSING", ["header"])
