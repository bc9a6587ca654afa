"""Where the domain becomes protobuf."""

from __future__ import annotations

from inference_svc.registry import Target
from quantmesh.inference.v1 import model_pb2
from runtime.times import set_us


def to_model(target: Target) -> model_pb2.Model:
    """A loaded model in its role."""
    manifest = target.loaded.manifest
    model = model_pb2.Model(
        name=manifest.name,
        version=target.loaded.version,
        strategy=target.strategy,
        alias=target.role,
        feature_names=manifest.feature_names,
        generation=target.generation,
        prediction_unit=manifest.prediction_unit,
        feature_set=manifest.feature_set,
    )
    set_us(model.loaded_at, target.loaded.loaded_at_us)
    return model
