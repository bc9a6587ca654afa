"""InferenceService over gRPC: protobuf in, the use case, protobuf out. Errors are the interceptor's business."""

from __future__ import annotations

import time
from typing import Any, TypeAlias

import grpc.aio

from inference_svc import metrics
from inference_svc.convert import to_model
from inference_svc.model_names import DEFAULT
from inference_svc.predict import Predictor, check_call, predict_one
from inference_svc.registry import Registry
from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from runtime.times import now_us, set_us
from runtime.validation import request_id

SERVICE_NAME = "quantmesh.inference.v1.InferenceService"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class _Latency:
    """Observes calls of one method; made once, so that a call looks no label up."""

    def __init__(self, method: str, target_ms: float) -> None:
        self._seconds = metrics.SECONDS.labels(method)
        self._over = metrics.OVER_TARGET.labels(method)
        self._target_ms = target_ms

    def since(self, started: float) -> float:
        """Milliseconds since `time.perf_counter()` was `started`, observed."""
        elapsed_s = time.perf_counter() - started
        self._seconds.observe(elapsed_s)
        elapsed_ms = elapsed_s * 1000
        if elapsed_ms > self._target_ms:
            self._over.inc()
        return elapsed_ms


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """The servicer."""

    def __init__(self, predictor: Predictor, registry: Registry, p99_ms_target: float) -> None:
        self._predictor = predictor
        self._registry = registry
        self._predict_latency = _Latency("Predict", p99_ms_target)
        self._batch_latency = _Latency("BatchPredict", p99_ms_target)

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        started = time.perf_counter()
        check_call(request.request_id, request.metadata)
        target = self._predictor.resolve(request.model_name)
        prediction = predict_one(target, request.features)
        metrics.PREDICTIONS.labels(target.strategy).inc()
        response = pb.PredictResponse(
            prediction=prediction,
            model_name=request.model_name or DEFAULT,
            model_version=target.loaded.version,
            request_id=request_id(request.request_id),
            generation=target.generation,
            metadata=request.metadata,
        )
        set_us(response.timestamp, now_us())
        response.latency_ms = self._predict_latency.since(started)
        return response

    async def BatchPredict(self, request: pb.BatchPredictRequest, context: Context) -> pb.BatchPredictResponse:
        started = time.perf_counter()
        check_call(request.request_id)
        target = self._predictor.resolve(request.model_name)
        predictions = await self._predictor.batch(target, [row.features for row in request.batch])
        metrics.PREDICTIONS.labels(target.strategy).inc(len(predictions.values))
        response = pb.BatchPredictResponse(
            predictions=predictions.values,
            model_name=request.model_name or DEFAULT,
            model_version=target.loaded.version,
            batch_size=len(predictions.values),
            request_id=request_id(request.request_id),
            generation=target.generation,
        )
        set_us(response.timestamp, now_us())
        response.latency_ms = self._batch_latency.since(started)
        return response

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        models = [
            to_model(target) for target in self._registry.current.targets() if request.strategy in ("", target.strategy)
        ]
        return pb.ListModelsResponse(models=models)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=to_model(self._predictor.resolve(request.model_name)))
