"""A replica that needs no Redis and no models, as a process: `python -m tests.stub_replica NAME`.

It listens where the settings of inference_svc say, drains at SIGTERM as the services do, and does what the name of the
model tells it: answer, be slow, or fail with a status. Any unary call on `/stub.Stub/…` and any stream echo.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.settings import MeshSettings
from runtime.supervisor.services import INFERENCE


class Stub(inference_service_pb2_grpc.InferenceServiceServicer):
    """Says who it is in `model_version`, and how often it was called in `generation`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls = 0

    async def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        self._calls += 1
        await self._behave(request.model_name, context)
        return pb.PredictResponse(model_version=self._name, generation=self._calls, prediction=sum(request.features))

    async def BatchPredict(self, request: pb.BatchPredictRequest, context: Any) -> pb.BatchPredictResponse:
        self._calls += 1
        await self._behave(request.model_name, context)
        return pb.BatchPredictResponse(
            model_version=self._name, generation=self._calls, predictions=[sum(row.features) for row in request.batch]
        )

    async def _behave(self, model: str, context: Any) -> None:
        """`slow:0.5` takes as many seconds, `UNAVAILABLE` fails with it, `inference_svc-2:UNAVAILABLE` there alone."""
        what, _, more = model.partition(":")
        if what == self._name:
            what = more
        if what == "slow":
            await asyncio.sleep(float(more))
        elif what in grpc.StatusCode.__members__:
            await context.abort(grpc.StatusCode[what], f"{self._name} was told to")


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Answer each message with itself."""
    async for request in requests:
        yield request


async def main(name: str) -> None:
    """Serve until SIGTERM."""
    settings = MeshSettings()
    # It bears more than it is said to, so that the balancer's limits are met first.
    config = ServerConfig(settings.host, settings.inference_port, "PORT", drain_grace_s=settings.drain_grace_s)
    server = MeshServer(config)
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(Stub(name), server.server)
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("stub.Stub", handlers)])
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await server.start([INFERENCE])
    print(f"{name} of {os.getpid()} serves on {server.port}", flush=True)
    await told.wait()
    await server.drain()
    print(f"{name} of {os.getpid()} has stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
