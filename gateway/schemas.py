"""The REST shapes of what the gateway says of the service behind it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class LoadedModel(BaseModel):
    """A model that the inference service has loaded, under one alias."""

    name: str = Field(description="Name from the model's manifest.")
    version: str = Field(description="SHA-256 digest of the artifact.")
    strategy: str = Field(description="Strategy whose deployment refers to it.")
    alias: str = Field(description="`champion` or `previous`.")
    generation: int = Field(description="Generation of the deployment.")
    feature_set: str = Field(description="Feature set that it was trained on.")
    feature_names: list[str] = Field(description="The order in which a prediction takes the features.")
    prediction_unit: str = Field(description="Unit of the prediction.")
    loaded_at: datetime = Field(description="When it was loaded and warm (UTC).")


class HealthAnswer(BaseModel):
    """Whether predictions can be had."""

    status: Literal["ok", "degraded", "unavailable"] = Field(
        description="`ok`: predictions are served. `degraded`: the inference service answers, but is not serving "
        "or has no model loaded. `unavailable`: it cannot be reached."
    )
    models: list[LoadedModel] = Field(description="The loaded models, by strategy and alias.")
    uptime_s: float = Field(description="How long the gateway has been up, seconds.")
    inference: str = Field(description="gRPC health of the inference service, or `UNREACHABLE`.")
