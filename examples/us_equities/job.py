"""The job itself: train, deploy, replay, predict, promote, roll back, and draw up the report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from examples.us_equities.accounting import Books, read_books
from examples.us_equities.deployment import FEATURE_SET, STRATEGY, Operator
from examples.us_equities.evaluation import Evaluation, evaluate
from examples.us_equities.panel import Panel, load
from examples.us_equities.replay import Expected, Replay
from examples.us_equities.training import TrainedModel, relative_forward_returns, train_all, training_set
from feature_svc.features import WINDOW, compute_panel
from quantmesh.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from quantmesh.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from runtime import grpc_client
from runtime.redis_client import Client
from runtime.supervisor import Addresses
from streams import Catalog

TRAIN_FROM = date(2005, 1, 1)
CUTOFF = date(2019, 1, 1)
_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Plan:
    """What is trained on and what is replayed."""

    panel: Panel
    """All of history."""
    cutoff: int
    """First session of the replay proper."""
    replayed: Panel
    """The sessions that go through the mesh: those that fill the features' windows, then the replay proper."""
    features: NDArray[np.float64]
    """Features of the replayed sessions, in bulk; NaN where the replay's own history is too short."""

    @classmethod
    def of(cls, sessions: int | None = None, cutoff: date = CUTOFF) -> Plan:
        """All sessions from the cut-off on, or so many."""
        panel = load()
        start = panel.first_at_or_after(cutoff)
        stop = len(panel.days) if sessions is None else min(start + sessions, len(panel.days))
        replayed = panel.rows(start - (WINDOW - 1), stop)
        return cls(panel, start, replayed, compute_panel(replayed.closes))

    @property
    def expected(self) -> Expected:
        """What each stage must hold in the end."""
        return Expected.of(self.features)

    def train(self) -> list[TrainedModel]:
        """Models of the years before the cut-off."""
        first = self.panel.first_at_or_after(TRAIN_FROM)
        return train_all(training_set(self.panel, first, self.cutoff))

    def judge(self, directions: NDArray[np.int8]) -> Evaluation:
        """What the signals of the replay proper were worth."""
        proper = slice(WINDOW - 1, None)
        closes = self.replayed.closes
        return evaluate(directions[proper], closes[proper], relative_forward_returns(closes)[proper])


@dataclass(frozen=True, slots=True)
class Report:
    """What came out."""

    books: Books
    evaluation: Evaluation
    replay_s: float
    prediction: float
    """By gRPC and by REST alike, of the last vector of the first symbol."""
    grpc_ms: float
    """Time of the gRPC call, seen by the client."""
    rest_ms: float
    """Time of the REST call, seen by the client."""
    promote_ms: float
    rollback_ms: float
    versions: list[str]
    last_features: list[float]
    """The row that was scored: examples for people to call with."""


async def run(
    plan: Plan,
    models: list[TrainedModel],
    mesh: Addresses,
    redis: Client,
    catalog: Catalog,
    progress: Callable[[dict[str, int]], None],
) -> Report:
    """Run the job on a mesh that is up and empty."""
    async with grpc_client.channel(mesh.mlops) as mlops:
        operator = Operator(mlops)
        versions = [await operator.register(model) for model in models]
        await operator.promote(versions[0], "first model of the demo")
        replay_s = await Replay(redis, catalog, plan.replayed, plan.expected).run(progress)
        books = await read_books(redis, catalog, plan.replayed, plan.features, plan.expected)
        row = await _last_row(mesh, plan.panel.symbols[0])
        by_grpc, grpc_ms = await _predict_grpc(mesh, row)
        by_rest, rest_ms = await _predict_rest(mesh, row)
        if by_grpc != by_rest:
            raise RuntimeError(f"gRPC answered {by_grpc!r}, REST {by_rest!r}")
        promote_ms = await operator.promote(versions[1], "second model of the demo")
        rollback_ms = await operator.roll_back("the demo goes back")
    return Report(
        books=books,
        evaluation=await asyncio.to_thread(plan.judge, books.directions),
        replay_s=replay_s,
        prediction=by_grpc,
        grpc_ms=grpc_ms,
        rest_ms=rest_ms,
        promote_ms=promote_ms,
        rollback_ms=rollback_ms,
        versions=versions,
        last_features=row,
    )


async def _last_row(mesh: Addresses, symbol: str) -> list[float]:
    """The newest vector of a symbol, from the online store."""
    async with grpc_client.channel(mesh.feature) as channel:
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        request = feature_service_pb2.GetOnlineFeaturesRequest(symbols=[symbol], feature_set=FEATURE_SET)
        answer = await stub.GetOnlineFeatures(request, timeout=_DEADLINE_S)
    return list(answer.vectors[0].values)


async def _predict_grpc(mesh: Addresses, row: list[float]) -> tuple[float, float]:
    async with grpc_client.channel(mesh.inference) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        request = inference_service_pb2.PredictRequest(model_name=STRATEGY, features=row)
        await stub.Predict(request, timeout=_DEADLINE_S)  # opens the connection
        started = time.perf_counter()
        answer = await stub.Predict(request, timeout=_DEADLINE_S)
        return float(answer.prediction), (time.perf_counter() - started) * 1000


async def _predict_rest(mesh: Addresses, row: list[float]) -> tuple[float, float]:
    async with httpx.AsyncClient(base_url=mesh.gateway, timeout=_DEADLINE_S) as client:
        body: dict[str, Any] = {"features": row, "model_name": "champion"}
        await client.post("/inference/predict", json=body)
        started = time.perf_counter()
        answer = await client.post("/inference/predict", json=body)
        elapsed_ms = (time.perf_counter() - started) * 1000
        answer.raise_for_status()
        return float(answer.json()["prediction"]), elapsed_ms
