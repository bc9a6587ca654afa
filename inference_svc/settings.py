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
    listener: Literal["auto", "envoy", "grpcio"] = Field(
        default="auto",
        validation_alias="INFER_LISTENER",
        description="What listens: Envoy with Python within, grpcio, or (auto) Envoy where it can.",
    )
    p99_ms_target: float = Field(
        default=50.0,
        gt=0,
        validation_alias="INFER_P99_MS_TARGET",
        description="Latency objective, milliseconds. A call that could not be answered within it is refused at once.",
    )
    batch_size: int = Field(
        default=32,
        ge=1,
        le=4096,
        validation_alias="INFER_BATCH_SIZE",
        description="Most rows of one call of a model; a bigger request is scored in several.",
    )
    queue_rows: int = Field(
        default=16_384, ge=1, validation_alias="INFER_QUEUE_ROWS", description="Most rows that wait, over all models."
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        validation_alias="INFER_THREADS",
        description="Long calls that run at once, of different models, each on a thread of its own.",
    )
    intra_op_threads: int = Field(
        default=1,
        ge=1,
        le=256,
        validation_alias="INFER_INTRA_OP_THREADS",
        description="Threads of ONNX Runtime within one call of a model.",
    )
    deterministic: bool = Field(
        default=True,
        validation_alias="INFER_DETERMINISTIC",
        description="Score each vector of the stream in a call of its own, so that no other has a part in its bits.",
    )
    deterministic_rpc: bool = Field(
        default=False,
        validation_alias="INFER_DETERMINISTIC_RPC",
        description="The same for the rows of requests, which are batched with those of others otherwise.",
    )
    gpu_enabled: bool = Field(
        default=False, validation_alias="INFER_GPU_ENABLED", description="Use CUDA where it is; elsewhere the CPU."
    )
    model_warmup: bool = Field(
        default=True,
        validation_alias="INFER_MODEL_WARMUP",
        description="Run a model on several batch sizes before it serves, and learn what it costs.",
    )
    warmup_timeout_s: float = Field(
        default=30.0,
        gt=0,
        validation_alias="INFER_WARMUP_TIMEOUT_S",
        description="A model that is not warm within so many seconds does not serve.",
    )
    memory_limit_mb: int = Field(
        default=0,
        ge=0,
        validation_alias="INFER_MEMORY_LIMIT_MB",
        description="Most memory of the process, megabytes, checked before a model is loaded; 0: what the machine or "
        "its control group has.",
    )
    shadow_buffer_kb: int = Field(
        default=1024,
        ge=64,
        validation_alias="INFER_SHADOW_BUFFER_KB",
        description="Rows of a strategy that are on their way to its challenger, kilobytes; more are dropped.",
    )
    shadow_cpu_share: float = Field(
        default=0.02,
        gt=0,
        le=1,
        validation_alias="INFER_SHADOW_CPU_SHARE",
        description="Of one core, what the shadow process may use to score rows with challengers.",
    )
    max_batch_rows: int = Field(
        default=4096, ge=1, description="Rows of one request; more are refused with RESOURCE_EXHAUSTED."
    )
