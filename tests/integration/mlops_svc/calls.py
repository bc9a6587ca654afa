"""Calls of MlopsService, and its errors as a client reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from mlops_svc.convert import manifest_message
from modelstore.manifest import Manifest
from quantmesh.mlops.v1 import mlops_service_pb2 as messages
from runtime.grpc_failure import Failure, failure_of
from tests.integration.mlops_svc.models import digest, linear, manifest

if TYPE_CHECKING:  # the stubs name it, the generated code does not have it
    from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceAsyncStub

UNKNOWN = "0" * 64


async def register(
    stub: MlopsServiceAsyncStub,
    onnx: bytes,
    described: Manifest | None = None,
    *,
    onnx_sha256: str = "",
    request_id: str = "",
    chunk_bytes: int = 100,
) -> messages.RegisterModelResponse:
    """Register a model in chunks."""
    header = messages.RegisterModelHeader(
        manifest=manifest_message(described or manifest()),
        onnx_sha256=onnx_sha256 or digest(onnx),
        request_id=request_id,
    )

    async def parts() -> AsyncIterator[messages.RegisterModelRequest]:
        yield messages.RegisterModelRequest(header=header)
        for at in range(0, len(onnx), chunk_bytes):
            yield messages.RegisterModelRequest(chunk=onnx[at : at + chunk_bytes])

    return await stub.RegisterModel(parts(), timeout=20)


async def some_version(stub: MlopsServiceAsyncStub, number: int, strategy: str | None = None) -> str:
    """Register the model of that number, and return its version."""
    described = manifest(name=f"model-{number}")
    response = await register(stub, linear([number, 1.0]), replace(described, strategy=strategy or described.strategy))
    return response.model.version


async def failed(call: Awaitable[object]) -> Failure:
    """How a call failed; the test fails if it did not."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure_of(caught.value)


def fields(failure: Failure) -> list[str]:
    """The fields that a failure names."""
    return [violation.field for violation in failure.violations]
