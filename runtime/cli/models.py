"""`quantmesh models`."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType

from quantmesh.inference.v1.inference_service_pb2 import ListModelsRequest
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from runtime import grpc_client
from runtime.cli import convert, places
from runtime.cli.output import call, show, table

_DEADLINE_S = 5.0


def run(address: str | None, as_json: bool) -> None:
    """List the loaded models."""
    target, absent = places.find(as_json).inference(address)
    models = call(loaded(target), as_json, absent=absent)
    show(as_json, {"models": models}, drawn(models))


async def loaded(address: str) -> list[dict[str, Any]]:
    """The loaded models as plain data."""
    async with grpc_client.channel(address) as channel:
        response = await InferenceServiceStub(channel).ListModels(ListModelsRequest(), timeout=_DEADLINE_S)
    return [convert.model(model) for model in response.models]


def drawn(models: list[dict[str, Any]] | None, why: str = "") -> RenderableType:
    """The models as a table; `why` there is none to show when they could not be asked for."""
    if models is None:
        return table(f"Models: inference_svc cannot be asked: {why}", (), ())
    columns = ("strategy", "alias", "generation", "name", "version")
    rows = [[*(model[column] for column in columns), len(model["feature_names"])] for model in models]
    return table("Models" if models else "Models: none is loaded", (*columns, "features"), rows)
