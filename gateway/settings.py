"""Settings of the gateway."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from runtime.ports import dialled
from runtime.settings import MeshSettings


def _inference_here(validated: dict[str, Any]) -> str:
    return f"{dialled(validated['host'])}:{validated['inference_port']}"


class GatewaySettings(MeshSettings):
    """What the gateway can be told."""

    inference_address: str = Field(
        default_factory=_inference_here,
        description="gRPC address of inference_svc, `host:port`; default: this mesh's own.",
    )
    gateway_timeout_s: float = Field(
        default=5.0, gt=0, description="Time that a REST request has for its gRPC call, retries included, seconds."
    )
    gateway_max_body_bytes: int = Field(
        default=4 * 1024 * 1024, gt=0, description="Largest request body; a larger one gets 413."
    )
