"""The shapes of a prediction.

Numbers are checked here to be numbers and finite; everything else is the inference service's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

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
        "`{strategy}@challenger` are not found while no challenger is deployed.",
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
