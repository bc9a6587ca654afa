"""Calls of a replica, and its errors as a client reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from runtime.grpc_client import channel


@dataclass(frozen=True)
class Failure:
    code: grpc.StatusCode
    reason: str
    fields: tuple[str, ...]
    message: str


@asynccontextmanager
async def client(address: str) -> AsyncIterator[inference_service_pb2_grpc.InferenceServiceAsyncStub]:
    async with channel(address) as opened:
        yield inference_service_pb2_grpc.InferenceServiceStub(opened)


def failure(error: grpc.aio.AioRpcError) -> Failure:
    status = rpc_status.from_call(error)
    assert status is not None
    reason, fields = "", ()
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = tuple(violation.field for violation in bad.field_violations)
    return Failure(error.code(), reason, fields, error.details() or "")


def batch(rows: Sequence[Sequence[float]], model_name: str = "champion") -> pb.BatchPredictRequest:
    return pb.BatchPredictRequest(model_name=model_name, batch=[pb.FeatureRow(features=row) for row in rows])
