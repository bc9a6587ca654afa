"""`quantmesh promote`, `quantmesh rollback`, and those of `quantmesh shadow` that change a deployment."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import typer

from quantmesh.mlops.v1.mlops_service_pb2 import (
    PromoteRequest,
    RollbackRequest,
    StartShadowRequest,
    StopShadowRequest,
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
    _check_digest(version)
    request = PromoteRequest(
        strategy=strategy,
        version=version,
        expected_generation=expected_generation,
        reason=reason,
        request_id=request_id or uuid.uuid4().hex,
    )
    _change("Promote", request, address, as_json)


def rollback(
    strategy: str,
    expected_generation: int | None,
    reason: str,
    request_id: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Make the previous champion the champion again."""
    request = RollbackRequest(
        strategy=strategy,
        expected_generation=expected_generation,
        reason=reason,
        request_id=request_id or uuid.uuid4().hex,
    )
    _change("Rollback", request, address, as_json)


def start_shadow(
    strategy: str,
    version: str,
    expected_generation: int | None,
    reason: str,
    request_id: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Make a version the challenger."""
    _check_digest(version)
    request = StartShadowRequest(
        strategy=strategy,
        version=version,
        expected_generation=expected_generation,
        reason=reason,
        request_id=request_id or uuid.uuid4().hex,
    )
    _change("StartShadow", request, address, as_json, convert.shadow_started, "all_ready")


def stop_shadow(
    strategy: str,
    expected_generation: int | None,
    reason: str,
    request_id: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Take the challenger away."""
    request = StopShadowRequest(
        strategy=strategy,
        expected_generation=expected_generation,
        reason=reason,
        request_id=request_id or uuid.uuid4().hex,
    )
    _change("StopShadow", request, address, as_json)


def _check_digest(version: str) -> None:
    if not _DIGEST.fullmatch(version):
        raise typer.BadParameter(
            f"{version!r} is not the digest of a version: all its 64 characters (0-9, a-f) are needed. Registering a "
            "model answers them; `quantmesh status` and `quantmesh models` print those of what is deployed"
        )


def _change(
    rpc: str,
    request: Any,
    address: str | None,
    as_json: bool,
    read: Callable[[Any], dict[str, Any]] = convert.change,
    all_of_them: str = "all_swapped",
) -> None:
    """Have a deployment changed, and show what came of it.

    `all_of_them` names the field that says that every replica does what was asked.
    """
    target, absent = places.find(as_json).mlops(address)

    async def work() -> dict[str, Any]:
        async with grpc_client.channel(target) as channel:
            return read(await getattr(MlopsServiceStub(channel), rpc)(request, timeout=_DEADLINE_S))

    change = call(work(), as_json, absent=absent, request_id=request.request_id)
    _show({**change, "request_id": request.request_id}, all_of_them, as_json)


def _show(change: dict[str, Any], all_of_them: str, as_json: bool) -> None:
    deployment, replicas = change["deployment"], change["replicas"]
    columns = ("replica_id", "address", "generation", "swapped", "error")
    facts = [*deployment.items(), ("elapsed_ms", round(change["elapsed_ms"], 1)), ("request_id", change["request_id"])]
    rows = [[*(replica[column] for column in columns), *_shadow_cells(replica["shadow"])] for replica in replicas]
    title = "Replicas" if replicas else "Replicas: none is live"
    names = (*columns, "challenger ready", "challenger error")
    show(as_json, change, table("Deployment", ("", ""), facts), table(title, names, rows))
    generation = deployment["generation"]
    if not change[all_of_them]:
        what = "scores with the challenger" if all_of_them == "all_ready" else f"serves generation {generation}"
        typer.echo(f"not every replica {what} yet", err=True)
        raise typer.Exit(EX_FAILED)
    if not replicas:
        typer.echo(f"no replica is live: generation {generation} is recorded, and nothing serves it yet", err=True)


def _shadow_cells(shadow: dict[str, Any] | None) -> tuple[object, object]:
    return (None, None) if shadow is None else (shadow["ready"], shadow["error"])
