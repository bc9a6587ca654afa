"""`quantmesh status`."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import typer
from rich.console import RenderableType

from quantmesh.mlops.v1.mlops_service_pb2 import ListDeploymentsRequest
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from runtime import grpc_client
from runtime.cli import convert, models
from runtime.cli.output import EX_FAILED, call, show, table
from runtime.process import load_settings
from runtime.redis_client import without_password
from runtime.settings import MeshSettings
from runtime.supervisor import services
from runtime.supervisor.listeners import addresses_of
from runtime.supervisor.record import Addresses, MeshRecord, find_record

_DEADLINE_S = 5.0
_HTTP_HEALTH = {200: "SERVING", 0: "UNREACHABLE"}


def run(as_json: bool) -> None:
    """Print the state of everything; exit code 1 when a port is not serving."""
    settings = load_settings(MeshSettings)
    record = find_record(settings.home)
    state = call(_state(settings, record), as_json)
    show(as_json, state, *_tables(state, _headline(settings, record)))
    if not state["healthy"]:
        raise typer.Exit(EX_FAILED)


def _tables(state: dict[str, Any], headline: str) -> list[RenderableType]:
    deployments = state["deployments"]
    columns = ("strategy", "generation", "champion_version", "updated_at", "reason")
    return [
        table(headline, ("process", "pid", "restarts"), [list(process.values()) for process in state["processes"]]),
        table("Health", ("port", "address", "status"), [list(port.values()) for port in state["health"]]),
        table(
            _deployments_title(deployments),
            columns,
            [[deployment[column] for column in columns] for deployment in deployments or ()],
        ),
        models.drawn(state["models"] or []),
    ]


def _deployments_title(deployments: list[dict[str, Any]] | None) -> str:
    if deployments is None:
        return "Deployments: mlops_svc cannot be asked"
    return "Deployments" if deployments else "Deployments: none"


async def _state(settings: MeshSettings, record: MeshRecord | None) -> dict[str, Any]:
    addresses = record.addresses if record else addresses_of(settings)
    health, deployments, loaded = await asyncio.gather(
        _health(addresses), _deployments(addresses.mlops), _models(addresses.inference)
    )
    return {
        "healthy": all(port["status"] == "SERVING" for port in health),
        "home": str(settings.home),
        "pid": record.pid if record else None,
        "redis_url": without_password(record.redis_url) if record else None,
        "processes": [
            {"name": name, "pid": pid, "restarts": record.restarts[name]} for name, pid in record.pids.items()
        ]
        if record
        else [],
        "health": health,
        "deployments": deployments,
        "models": loaded,
    }


async def _health(addresses: Addresses) -> list[dict[str, str]]:
    asked = [
        ("feature_svc", addresses.feature, services.FEATURE),
        ("inference_svc", addresses.inference, services.INFERENCE),
        ("mlops_svc", addresses.mlops, services.MLOPS),
    ]
    http_status = asyncio.ensure_future(services.http_status(addresses.gateway, "/inference/health"))
    statuses = await asyncio.gather(*(services.health(address, service) for _, address, service in asked))
    ports = [
        {"name": name, "address": address, "status": status}
        for (name, address, _), status in zip(asked, statuses, strict=True)
    ]
    status = _HTTP_HEALTH.get(await http_status, f"HTTP {await http_status}")
    return [*ports, {"name": "gateway", "address": addresses.gateway, "status": status}]


async def _deployments(address: str) -> list[dict[str, Any]] | None:
    """The deployments; None when mlops_svc cannot be asked, which the health shows."""
    async with grpc_client.channel(address) as channel:
        try:
            answer = await MlopsServiceStub(channel).ListDeployments(ListDeploymentsRequest(), timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError:
            return None
    return [convert.deployment(deployment) for deployment in answer.deployments]


async def _models(address: str) -> list[dict[str, Any]] | None:
    try:
        return await models.loaded(address)
    except grpc.aio.AioRpcError:
        return None


def _headline(settings: MeshSettings, record: MeshRecord | None) -> str:
    if record is None:
        return f"No mesh runs on {settings.home}"
    redis = without_password(record.redis_url)
    return f"Mesh of process {record.pid}, Redis {redis}, logs in {record.logs_dir}"
