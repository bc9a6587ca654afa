"""The REST shapes. Numbers are checked here to be numbers and finite; everything else is the inference service's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

Feature = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A JSON number. Texts, booleans, null, NaN and infinities are refused."""

Text = Annotated[str, Field(strict=True)]


class _Body(BaseModel):
    # A misspelt `model_name` must not silently ask the champion.
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class PredictBody(_Body):
    """One row to score."""

    features: Annotated[list[Feature], FailFast()] = Field(
        description="One finite number for each feature, in the order of the model's `feature_names`.",
        examples=[[0.012, -0.004, 0.31]],
    )
    model_name: Text = Field(
        default="champion",
        description="`champion`, `{strategy}`, `{strategy}@champion` or a version digest. `challenger` and "
        "`{strategy}@challenger` are reserved: not found until a challenger can be deployed.",
    )
    request_id: Text = Field(default="", description="Identity of the call, echoed; default: one is made.")
    metadata: dict[Text, Text] = Field(default={}, description="Free labels, echoed.")


class BatchBody(_Body):
    """Rows to score in one call of the model."""

    batch: Annotated[list[Annotated[list[Feature], FailFast()]], FailFast()] = Field(
        description="The rows, each as `features` of a single prediction.", examples=[[[0.012, -0.004, 0.31]]]
    )
    model_name: Text = Field(default="champion", description="As for a single prediction.")
    request_id: Text = Field(default="", description="Identity of the call, echoed; default: one is made.")


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(description="The name that was asked for.")
    model_version: str = Field(description="SHA-256 digest of the version that answered.")
    latency_ms: float = Field(description="Time in the inference service, milliseconds.")
    timestamp: datetime = Field(description="When it was predicted (UTC).")
    request_id: str = Field(description="Identity of the call.")
    generation: int = Field(description="Generation of the deployment that answered.")


class PredictAnswer(_Answer):
    """One prediction."""

    prediction: float = Field(description="The model's output, in its `prediction_unit`.")
    metadata: dict[str, str] = Field(description="The request's labels.")


class BatchAnswer(_Answer):
    """Predictions, in the order of the rows."""

    predictions: list[float] = Field(description="One for each row, in the model's `prediction_unit`.")
    batch_size: int = Field(description="Number of rows.")


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
