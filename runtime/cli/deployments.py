"""`quantmesh promote` and `quantmesh rollback`."""

from __future__ import annotations

import uuid
from typing import Any

import typer

from quantmesh.mlops.v1.mlops_service_pb2 import PromoteRequest, RollbackRequest
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from runtime import grpc_client
from runtime.cli import convert, places
from runtime.cli.output import call, show, table
from runtime.process import load_settings
from runtime.settings import MeshSettings

_DEADLINE_S = 60.0  # it answers when the replicas have loaded the model


def promote(
    strategy: str, version: str, expected_generation: int | None, reason: str, address: str | None, as_json: bool
) -> None:
    """Make a version the champion."""
    request = PromoteRequest(
        strategy=strategy,
        version=version,
        expected_generation=expected_generation,
        reason=reason,
        request_id=uuid.uuid4().hex,
    )

    async def work(target: str) -> dict[str, Any]:
        async with grpc_client.channel(target) as channel:
            return convert.change(await MlopsServiceStub(channel).Promote(request, timeout=_DEADLINE_S))

    _show(call(work(_target(address)), as_json), as_json)


def rollback(strategy: str, expected_generation: int | None, reason: str, address: str | None, as_json: bool) -> None:
    """Make the previous champion the champion again."""
    request = RollbackRequest(
        strategy=strategy, expected_generation=expected_generation, reason=reason, request_id=uuid.uuid4().hex
    )

    async def work(target: str) -> dict[str, Any]:
        async with grpc_client.channel(target) as channel:
            return convert.change(await MlopsServiceStub(channel).Rollback(request, timeout=_DEADLINE_S))

    _show(call(work(_target(address)), as_json), as_json)


def _target(address: str | None) -> str:
    return address or places.addresses(load_settings(MeshSettings)).mlops


def _show(change: dict[str, Any], as_json: bool) -> None:
    deployment = change["deployment"]
    replica_columns = ("replica_id", "address", "generation", "swapped", "error")
    show(
        as_json,
        change,
        table("Deployment", ("", ""), [*deployment.items(), ("elapsed_ms", round(change["elapsed_ms"], 1))]),
        table("Replicas", replica_columns, [[replica[c] for c in replica_columns] for replica in change["replicas"]]),
    )
    if not change["all_swapped"]:
        typer.echo(f"not every replica serves generation {deployment['generation']} yet", err=True)
