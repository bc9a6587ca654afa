"""Translate what the inference service says of its models into the REST shapes."""

from __future__ import annotations

from datetime import UTC

from gateway.schemas import LoadedModel
from quantmesh.inference.v1.model_pb2 import Model


def loaded_model(model: Model) -> LoadedModel:
    """One loaded model."""
    return LoadedModel(
        name=model.name,
        version=model.version,
        strategy=model.strategy,
        alias=model.alias,
        generation=model.generation,
        feature_set=model.feature_set,
        feature_names=list(model.feature_names),
        prediction_unit=model.prediction_unit,
        loaded_at=model.loaded_at.ToDatetime(tzinfo=UTC),
    )
