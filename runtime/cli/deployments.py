"""`quantmesh promote` and `quantmesh rollback`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import typer

from quantmesh.mlops.v1.mlops_service_pb2 import (
    PromoteRequest,
    PromoteResponse,
    RollbackRequest,
    RollbackResponse,
)
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from runtime import grpc_client
from runtime.cli import convert, places
from runtime.cli.output import EX_FAILED, call, show, table

_DEADLINE_S = 60.0  # it answers when the replicas have loaded the model
_DIGEST = re.compile(r"[0-9a-f]{64}")


def promote(
    strategy: str,
    version: str,
    expected_generation: int | None,
    reason: str,
    request_id: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Make a version the champion."""
    if not _DIGEST.fullmatch(version):
        raise typer.BadParameter(
            f"{version!r} is not the digest of a version: all its 64 characters (0-9, a-f) are needed. Registering a "
            "model answers them; `quantmesh status` and `quantmesh models` print those of what is deployed"
        )
    request_id = request_id or uuid.uuid4().hex
    request = PromoteRequest(
        strategy=strategy,
        version=version,
        expected_generation=expected_generation,
        reason=reason,
        request_id=request_id,
    )
    _change(lambda mlops: mlops.Promote(request, timeout=_DEADLINE_S), request_id, address, as_json)


def rollback(
    strategy: str,
    expected_generation: int | None,
    reason: str,
    request_id: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Make the previous champion the champion again."""
    request_id = request_id or uuid.uuid4().hex
    request = RollbackRequest(
        strategy=strategy, expected_generation=expected_generation, reason=reason, request_id=request_id
    )
    _change(lambda mlops: mlops.Rollback(request, timeout=_DEADLINE_S), request_id, address, as_json)


def _change(
    ask: Callable[[Any], Awaitable[PromoteResponse | RollbackResponse]],
    request_id: str,
    address: str | None,
    as_json: bool,
) -> None:
    target, absent = places.find(as_json).mlops(address)

    async def work() -> dict[str, Any]:
        async with grpc_client.channel(target) as channel:
            return convert.change(await ask(MlopsServiceStub(channel)))

    change = call(work(), as_json, absent=absent, request_id=request_id)
    _show({**change, "request_id": request_id}, as_json)


def _show(change: dict[str, Any], as_json: bool) -> None:
    deployment, replicas = change["deployment"], change["replicas"]
    columns = ("replica_id", "address", "generation", "swapped", "error")
    facts = [*deployment.items(), ("elapsed_ms", round(change["elapsed_ms"], 1)), ("request_id", change["request_id"])]
    rows = [[replica[column] for column in columns] for replica in replicas]
    title = "Replicas" if replicas else "Replicas: none is live"
    show(as_json, change, table("Deployment", ("", ""), facts), table(title, columns, rows))
    generation = deployment["generation"]
    if not change["all_swapped"]:
        typer.echo(f"not every replica serves generation {generation} yet", err=True)
        raise typer.Exit(EX_FAILED)
    if not replicas:
        typer.echo(f"no replica is live: generation {generation} is recorded, and nothing serves it yet", err=True)
