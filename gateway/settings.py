"""Settings of the gateway."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from runtime import grpc_client
from runtime.errors import ConfigurationError
from runtime.ports import dialled
from runtime.settings import MeshSettings


def _inference_here(validated: dict[str, Any]) -> str:
    return f"{dialled(validated['host'])}:{validated['inference_port']}"


class GatewaySettings(MeshSettings):
    """What the gateway can be told."""

    inference_address: str = Field(
        default_factory=_inference_here,
        description="gRPC address of inference_svc, `host:port`, or of its replicas, `ip:port,ip:port`; default: this "
        "mesh's own.",
    )
    gateway_timeout_s: float = Field(
        default=5.0, gt=0, description="Time that a REST request has for its gRPC call, retries included, seconds."
    )
    gateway_max_body_bytes: int = Field(
        default=4 * 1024 * 1024, gt=0, description="Largest request body; a larger one gets 413."
    )

    @field_validator("inference_address")
    @classmethod
    def _can_be_dialled(cls, value: str) -> str:
        try:
            grpc_client.target(value)
        except ConfigurationError as error:
            raise ValueError(f"QUANTMESH_INFERENCE_ADDRESS: {error.message}") from None
        return value
