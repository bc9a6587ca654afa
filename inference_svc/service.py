"""InferenceService over gRPC: protobuf in, the use case, protobuf out. Errors are the listener's business."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from inference_svc import metrics
from inference_svc.admission import USUAL, Terms
from inference_svc.convert import priority, rows_of, rows_of_batch, to_model, to_shapes
from inference_svc.model_names import DEFAULT
from inference_svc.predict import Pending, Predictor, check_call
from inference_svc.registry import Registry
from inference_svc.streaming import in_order
from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import inference_service_pb2_grpc
from runtime.errors import InvalidInputError, QuantmeshError
from runtime.grpc_errors import status_code
from runtime.times import now_us, set_us
from runtime.validation import request_id

SERVICE_NAME = "quantmesh.inference.v1.InferenceService"

STREAM_WINDOW_ROWS = 4096
"""Rows of one stream that wait or whose answers are not read yet."""

_LEAST_WEIGHT = 64
"""Rows that a request counts for at least: a stream of single rows has 64 requests under way."""


class Context(Protocol):
    """What a call needs of its transport."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""


class Latency:
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
        self._predict_latency = Latency("Predict", p99_ms_target)
        self._batch_latency = Latency("BatchPredict", p99_ms_target)
        self._stream_latency = Latency("StreamPredict", p99_ms_target)

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        started = time.perf_counter()
        check_call(request.request_id, request.metadata)
        target = self._predictor.resolve(request.model_name)
        rows, path = rows_of(request, target.loaded)
        if len(rows) != 1:
            raise InvalidInputError.of_field("packed.rows", f"is {len(rows)}; Predict scores 1: use BatchPredict")
        identity = request_id(request.request_id)
        terms = _terms(request.priority, context, started)
        work = await self._predictor.begin(target, rows, path, terms, identity).result()
        metrics.PREDICTIONS.labels(target.strategy).inc()
        response = pb.PredictResponse()  # field by field: half of what keywords cost
        response.prediction = work.values.item(0)
        response.model_name = request.model_name or DEFAULT
        response.model_version = target.loaded.version
        response.request_id = identity
        response.generation = target.generation
        response.batch_rows = work.shapes[0][1]
        if request.metadata:
            response.metadata.update(request.metadata)
        set_us(response.timestamp, now_us())
        response.latency_ms = self._predict_latency.since(started)
        return response

    async def BatchPredict(self, request: pb.BatchPredictRequest, context: Context) -> pb.BatchPredictResponse:
        started = time.perf_counter()
        check_call(request.request_id)
        target = self._predictor.resolve(request.model_name)
        if request.HasField("packed"):
            self._predictor.check_size(request.packed.rows, "packed")
        else:
            self._predictor.check_size(len(request.batch), "batch")
        rows, path = rows_of_batch(request, target.loaded)
        identity = request_id(request.request_id)
        terms = _terms(request.priority, context, started)
        work = await self._predictor.begin(target, rows, path, terms, identity).result()
        metrics.PREDICTIONS.labels(target.strategy).inc(len(work.values))
        response = pb.BatchPredictResponse(
            predictions=work.values.tolist(),
            model_name=request.model_name or DEFAULT,
            model_version=target.loaded.version,
            batch_size=len(work.values),
            request_id=identity,
            generation=target.generation,
            shapes=to_shapes(work),
        )
        set_us(response.timestamp, now_us())
        response.latency_ms = self._batch_latency.since(started)
        return response

    async def StreamPredict(
        self, requests: AsyncIterable[pb.StreamPredictRequest], context: Context
    ) -> AsyncIterator[pb.StreamPredictResponse]:
        async with aclosing(in_order(requests, self._begin_streamed, STREAM_WINDOW_ROWS, _weight)) as responses:
            async for response in responses:
                yield response

    def _begin_streamed(self, request: pb.StreamPredictRequest) -> _Streamed:
        return _Streamed(request, self._predictor, self._stream_latency)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        models = [
            to_model(target) for target in self._registry.current.targets() if request.strategy in ("", target.strategy)
        ]
        return pb.ListModelsResponse(models=models)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=to_model(self._predictor.resolve(request.model_name)))


def _terms(wanted: pb.Priority.ValueType, context: Context, now: float) -> Terms:
    left_s = context.time_remaining()
    if left_s is None and not wanted:
        return USUAL
    return Terms(priority(wanted), None if left_s is None else now + left_s)


def weight(rows: int) -> int:
    """What a request of so many rows counts for in the window of its stream."""
    return max(rows, _LEAST_WEIGHT)


def _weight(request: pb.StreamPredictRequest) -> int:
    return weight(request.packed.rows)


class _Streamed:
    """One request of a stream, scored from the moment it is made. A fault of its own is its answer."""

    def __init__(self, request: pb.StreamPredictRequest, predictor: Predictor, latency: Latency) -> None:
        self._request = request
        self._latency = latency
        self._started = time.perf_counter()
        self._pending: Pending | None = None
        self._error: QuantmeshError | None = None
        try:
            self._pending = self._begin(predictor)
        except QuantmeshError as error:
            self._error = error

    def _begin(self, predictor: Predictor) -> Pending:
        request = self._request
        check_call(request.request_id)
        target = predictor.resolve(request.model_name)
        if request.HasField("packed"):
            predictor.check_size(request.packed.rows, "packed")
        rows, path = rows_of(request, target.loaded)
        terms = Terms(priority(request.priority), patient=True)
        return predictor.begin(target, rows, path, terms, request.request_id)

    def cancel(self) -> None:
        """The stream has ended: nobody waits for the answer."""
        if self._pending is not None:
            self._pending.cancel()

    async def result(self) -> pb.StreamPredictResponse:
        """The answer."""
        response = pb.StreamPredictResponse(
            model_name=self._request.model_name or DEFAULT, request_id=self._request.request_id
        )
        error = self._error
        if self._pending is not None:
            try:
                work = await self._pending.result()
            except QuantmeshError as failed:
                error = failed
            else:
                target = self._pending.target
                metrics.PREDICTIONS.labels(target.strategy).inc(len(work.values))
                response.predictions.extend(work.values.tolist())
                response.model_version = target.loaded.version
                response.generation = target.generation
                response.shapes.extend(to_shapes(work))
        if error is not None:
            response.error.CopyFrom(_request_error(error))
        set_us(response.timestamp, now_us())
        response.latency_ms = self._latency.since(self._started)
        return response


def _request_error(error: QuantmeshError) -> pb.RequestError:
    return pb.RequestError(
        code=status_code(error).value[0],
        reason=error.reason,
        message=error.message,
        field=error.violations[0].field if error.violations else "",
    )
