"""Translate between the shapes and the messages of the gRPC contract, which say the same."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from quantmesh.inference.v1.inference_service_pb2 import (
    BatchPredictRequest,
    BatchPredictResponse,
    FeatureRow,
    PredictRequest,
    PredictResponse,
)
from runtime import validation
from runtime.errors import FieldViolation
from runtime.rest.shapes import BatchAnswer, BatchBody, PredictAnswer, PredictBody


def predict_request(body: PredictBody) -> PredictRequest:
    """The id is made here when there is none, so that a retry of the call has the same."""
    return PredictRequest(
        model_name=body.model_name,
        features=body.features,
        request_id=validation.request_id(body.request_id),
        metadata=body.metadata,
    )


def batch_request(body: BatchBody) -> BatchPredictRequest:
    """As `predict_request`."""
    return BatchPredictRequest(
        model_name=body.model_name,
        batch=[FeatureRow(features=row) for row in body.batch],
        request_id=validation.request_id(body.request_id),
    )


def batch_field(violation: FieldViolation) -> FieldViolation:
    """Name a field of a batch as the REST body has it: `batch[1].features[2]` is `batch[1][2]` there."""
    return FieldViolation(re.sub(r"^(batch\[\d+\])\.features", r"\1", violation.field), violation.description)


def predict_answer(response: PredictResponse) -> PredictAnswer:
    """One prediction. What comes from a message of the contract needs no second check."""
    return PredictAnswer.model_construct(
        prediction=response.prediction,
        model_name=response.model_name,
        model_version=response.model_version,
        latency_ms=response.latency_ms,
        timestamp=_utc(response.timestamp),
        request_id=response.request_id,
        generation=response.generation,
        metadata=dict(response.metadata),
    )


def batch_answer(response: BatchPredictResponse) -> BatchAnswer:
    """Predictions of a batch, as `predict_answer`."""
    return BatchAnswer.model_construct(
        predictions=list(response.predictions),
        model_name=response.model_name,
        model_version=response.model_version,
        batch_size=response.batch_size,
        latency_ms=response.latency_ms,
        timestamp=_utc(response.timestamp),
        request_id=response.request_id,
        generation=response.generation,
    )


def _utc(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
