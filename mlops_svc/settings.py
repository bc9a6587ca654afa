"""Settings of mlops_svc: the mesh's own, and how models are taken in and rolled out."""

from __future__ import annotations

from pydantic import Field

from runtime.settings import MeshSettings


class MlopsSettings(MeshSettings):
    """What mlops_svc can be told."""

    max_model_bytes: int = Field(
        default=512 * 1024 * 1024, gt=0, description="Largest ONNX model that RegisterModel takes, bytes."
    )
    max_registering_bytes: int = Field(
        default=1024 * 1024 * 1024,
        gt=0,
        description="ONNX bytes of all registrations under way; more are refused, with RetryInfo, until some end.",
    )
    swap_wait_s: float = Field(
        default=10.0, ge=0, description="How long Promote and Rollback wait for the replicas to swap, seconds."
    )
