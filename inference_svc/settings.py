"""Settings of inference_svc: the mesh's own, and the documented `INFER_*` names."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from runtime.settings import MeshSettings


class InferenceSettings(MeshSettings):
    """What an inference replica can be told.

    Errors name fields, not aliases, because `runtime.process` looks the environment variable up by field.
    """

    model_config = SettingsConfigDict(populate_by_name=True, loc_by_alias=False)

    runtime: Literal["onnx"] = Field(
        default="onnx", validation_alias="INFER_RUNTIME", description="What runs the models; there is one."
    )
    p99_ms_target: float = Field(
        default=50.0,
        gt=0,
        validation_alias="INFER_P99_MS_TARGET",
        description="Latency objective, milliseconds: calls over it are counted, and the objective is exported.",
    )
    batch_size: int = Field(
        default=32,
        ge=1,
        le=4096,
        validation_alias="INFER_BATCH_SIZE",
        description="Feature vectors that are scored in one step, and by one ONNX call unless deterministic.",
    )
    deterministic: bool = Field(
        default=True,
        validation_alias="INFER_DETERMINISTIC",
        description="Score each vector of the stream in a call of its own, so that no other has a part in its bits.",
    )
    gpu_enabled: bool = Field(
        default=False, validation_alias="INFER_GPU_ENABLED", description="Ask for CUDA; without it the CPU serves."
    )
    model_warmup: bool = Field(
        default=True, validation_alias="INFER_MODEL_WARMUP", description="Run a model on several batch sizes first."
    )
    max_batch_rows: int = Field(
        default=4096, ge=1, description="Rows of a BatchPredict; more are refused with RESOURCE_EXHAUSTED."
    )
