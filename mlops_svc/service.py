"""MlopsService over gRPC: translates between protobuf and the domain, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio

from mlops_svc import convert
from mlops_svc.listing import page
from mlops_svc.registration import Registrar
from mlops_svc.rollout import Rollout
from mlops_svc.watching import watch
from modelstore.deployments import DeploymentStore, message_of
from quantmesh.mlops.v1 import mlops_service_pb2 as messages
from quantmesh.mlops.v1 import mlops_service_pb2_grpc

SERVICE_NAME = "quantmesh.mlops.v1.MlopsService"

_ANSWER_S = 0.25
"""Kept of a caller's deadline for the answer itself, so that it says which replicas have not swapped."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class MlopsServicer(mlops_service_pb2_grpc.MlopsServiceServicer):
    """The servicer. `stop` ends the watches, which would otherwise hold up a drain."""

    def __init__(
        self, registrar: Registrar, rollout: Rollout, deployments: DeploymentStore, swap_wait_s: float
    ) -> None:
        self._registrar = registrar
        self._rollout = rollout
        self._deployments = deployments
        self._swap_wait_s = swap_wait_s
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the watches with UNAVAILABLE: their callers watch again, elsewhere or later."""
        self._stopping.set()

    async def RegisterModel(
        self, request_iterator: AsyncIterable[messages.RegisterModelRequest], context: Context
    ) -> messages.RegisterModelResponse:
        artifact = await self._registrar.register(convert.parts(request_iterator))
        return messages.RegisterModelResponse(model=convert.model_message(artifact))

    async def Promote(self, request: messages.PromoteRequest, context: Context) -> messages.PromoteResponse:
        outcome = await self._rollout.promote(convert.change(request), request.version, self._wait_s(context))
        return messages.PromoteResponse(
            deployment=message_of(outcome.deployment),
            replicas=convert.replica_messages(outcome.replicas),
            all_swapped=outcome.all_swapped,
            elapsed_ms=outcome.elapsed_ms,
        )

    async def Rollback(self, request: messages.RollbackRequest, context: Context) -> messages.RollbackResponse:
        outcome = await self._rollout.rollback(convert.change(request), self._wait_s(context))
        return messages.RollbackResponse(
            deployment=message_of(outcome.deployment),
            replicas=convert.replica_messages(outcome.replicas),
            all_swapped=outcome.all_swapped,
            elapsed_ms=outcome.elapsed_ms,
        )

    async def StartShadow(self, request: messages.StartShadowRequest, context: Context) -> messages.StartShadowResponse:
        outcome = await self._rollout.start_shadow(convert.change(request), request.version, self._wait_s(context))
        return messages.StartShadowResponse(
            deployment=message_of(outcome.deployment),
            replicas=convert.replica_messages(outcome.replicas),
            all_ready=outcome.all_ready,
            elapsed_ms=outcome.elapsed_ms,
        )

    async def StopShadow(self, request: messages.StopShadowRequest, context: Context) -> messages.StopShadowResponse:
        outcome = await self._rollout.stop_shadow(convert.change(request), self._wait_s(context))
        return messages.StopShadowResponse(
            deployment=message_of(outcome.deployment),
            replicas=convert.replica_messages(outcome.replicas),
            all_swapped=outcome.all_swapped,
            elapsed_ms=outcome.elapsed_ms,
        )

    async def GetDeployment(
        self, request: messages.GetDeploymentRequest, context: Context
    ) -> messages.GetDeploymentResponse:
        deployment, replicas = await self._rollout.standing(request.strategy)
        return messages.GetDeploymentResponse(
            deployment=message_of(deployment), replicas=convert.replica_messages(replicas)
        )

    async def ListDeployments(
        self, request: messages.ListDeploymentsRequest, context: Context
    ) -> messages.ListDeploymentsResponse:
        deployments = await self._deployments.all()
        shown, next_page_token = page(deployments, request.page_size, request.page_token)
        return messages.ListDeploymentsResponse(deployments=map(message_of, shown), next_page_token=next_page_token)

    async def WatchDeployments(
        self, request: messages.WatchDeploymentsRequest, context: Context
    ) -> AsyncIterator[messages.WatchDeploymentsResponse]:
        async with aclosing(watch(self._deployments, request.strategy, self._stopping)) as changes:
            async for deployment in changes:
                yield messages.WatchDeploymentsResponse(deployment=message_of(deployment))

    def _wait_s(self, context: Context) -> float:
        left_s = context.time_remaining()
        return self._swap_wait_s if left_s is None else max(0.0, min(self._swap_wait_s, left_s - _ANSWER_S))
