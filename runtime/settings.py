"""Typed settings, read from the environment: `QUANTMESH_*` for the mesh, `INFER_*` for inference.

Each service extends `MeshSettings` in its own `settings.py`. Only `__main__` modules and commands read the environment
(`runtime.environment`); tests and wiring pass settings as values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.errors import ConfigurationError
from runtime.redis_topology import parse


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class MeshSettings(BaseSettings):
    """Settings that every process of the mesh shares. An empty variable is as good as none."""

    model_config = SettingsConfigDict(env_prefix="QUANTMESH_", env_ignore_empty=True, extra="ignore", frozen=True)

    home: Path = Field(
        default_factory=lambda: Path.home() / ".quantmesh", description="Where state on disk lives: models, Redis data."
    )
    redis_url: str | None = Field(
        default=None, description="Redis to use. Unset: `quantmesh up` starts an embedded server and passes its URL on."
    )
    redis_wait_s: float = Field(
        default=30.0, gt=0, description="How long to wait at start for Redis to answer, seconds."
    )
    partitions: int = Field(
        default=4, ge=1, le=1024, description="Partitions of every stream; one number for the mesh."
    )
    host: str = Field(default="127.0.0.1", description="Address that servers listen on.")
    feature_port: int = Field(
        default=50051, ge=0, le=65535, description="gRPC port of feature_svc; 0 picks a free one."
    )
    inference_port: int = Field(default=50052, ge=0, le=65535, description="gRPC port of inference_svc.")
    mlops_port: int = Field(default=50053, ge=0, le=65535, description="gRPC port of mlops_svc.")
    gateway_port: int = Field(default=8000, ge=0, le=65535, description="HTTP port of the gateway.")
    feature_metrics_port: int = Field(default=9101, ge=0, le=65535, description="Prometheus port of feature_svc.")
    inference_metrics_port: int = Field(default=9102, ge=0, le=65535, description="Prometheus port of inference_svc.")
    mlops_metrics_port: int = Field(default=9103, ge=0, le=65535, description="Prometheus port of mlops_svc.")
    replicas: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Replicas of inference_svc. More than one: behind Envoy, which has the ports of inference_svc.",
    )
    replica_port: int = Field(
        # Below the ports that Linux gives to connections: one of those could take a replica's while it is down.
        default=30061,
        ge=0,
        le=65535,
        description="gRPC port of the first of several replicas; the others' follow it.",
    )
    replica_metrics_port: int = Field(
        default=9111, ge=0, le=65535, description="Prometheus port of the first replica; the others' follow it."
    )
    replica_try_s: float = Field(
        default=1.0,
        gt=0,
        description="How long a replica may take for one row before another is asked; ten times that for a batch.",
    )
    default_strategy: str | None = Field(
        default=None, description="Strategy that `champion` alone means; unset: the only one there is."
    )
    default_feature_set: str = Field(default="equities_daily", description="Feature set used when none is named.")
    allowed_clock_skew_s: float = Field(
        default=5.0, ge=0, description="How far ahead of the clock a timestamp may be, seconds."
    )
    max_message_bytes: int = Field(default=4 * 1024 * 1024, gt=0, description="Largest gRPC message, bytes.")
    max_concurrent_rpcs: int = Field(default=1000, gt=0, description="RPCs served at once before RESOURCE_EXHAUSTED.")
    default_deadline_s: float = Field(
        default=30.0, gt=0, description="Deadline of a unary RPC that came without, seconds."
    )
    drain_grace_s: float = Field(
        default=10.0, ge=0, description="How long RPCs in flight may finish at SIGTERM, seconds."
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = Field(
        default="INFO", description="The least that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(default="auto", description="auto: console on a terminal.")

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse(value)
            except ConfigurationError as error:
                raise ValueError(error.message) from None
        return value
