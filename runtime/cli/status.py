"""`quantmesh status`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc.aio
import typer
from rich.console import RenderableType

from quantmesh.mlops.v1.deployment_pb2 import Deployment
from quantmesh.mlops.v1.mlops_service_pb2 import GetDeploymentRequest, ListDeploymentsRequest
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from runtime import grpc_client
from runtime.cli import convert, models, places
from runtime.cli.output import EX_FAILED, call, show, table
from runtime.cli.places import Place
from runtime.errors import ConfigurationError, QuantmeshError
from runtime.grpc_failure import failure_of
from runtime.redis_client import connect, wait_for_redis, without_password
from runtime.supervisor import services
from runtime.supervisor.record import Addresses

_DEADLINE_S = 5.0
_REDIS_DEADLINE_S = 3.0
_HTTP_HEALTH = {200: "SERVING", 0: "UNREACHABLE"}

Answer = TypeVar("Answer")


def run(as_json: bool) -> None:
    """Print the state of everything; exit code 1 when something is ill."""
    place = places.find(as_json)
    state = call(_state(place), as_json)
    show(as_json, state, *_tables(state, _headline(place)))
    if not state["healthy"]:
        raise typer.Exit(EX_FAILED)


def _tables(state: dict[str, Any], headline: str) -> list[RenderableType]:
    why = state["errors"]
    columns = ("strategy", "generation", "champion_version", "serving", "challenger_version", "updated_at", "reason")
    rows = [[each[column] for column in columns] for each in map(_with_serving, state["deployments"] or ())]
    title = f"Deployments: mlops_svc cannot be asked: {why.get('deployments')}"
    if state["deployments"] is not None:
        title = "Deployments" if rows else "Deployments: none"
    return [
        table(headline, ("process", "pid", "restarts"), [list(process.values()) for process in state["processes"]]),
        table("Health", ("port", "address", "status"), [list(port.values()) for port in state["health"]]),
        *([table(f"Redis: {why['redis']}", (), ())] if "redis" in why else []),
        table(title, columns, rows),
        models.drawn(state["models"], why.get("models", "")),
    ]


def _with_serving(deployment: dict[str, Any]) -> dict[str, Any]:
    replicas = deployment["replicas"]
    return {
        **deployment,
        "serving": f"{sum(replica['swapped'] for replica in replicas)} of {len(replicas)}",
        "challenger_version": deployment["challenger_version"] or None,
    }


async def _state(place: Place) -> dict[str, Any]:
    addresses, record = place.addresses, place.record
    redis_url = record.redis_url if record else place.settings.redis_url
    errors: dict[str, str] = {}
    health, redis, deployments, loaded = await asyncio.gather(
        _health(addresses),
        _redis(redis_url, errors),
        _asked("deployments", _deployments(addresses.mlops), errors),
        _asked("models", models.loaded(addresses.inference), errors),
    )
    health = [*redis, *health]
    return {
        "healthy": not errors
        and all(port["status"] == "SERVING" for port in health)
        and all(map(_is_served, deployments or ())),
        "home": str(place.settings.home),
        "pid": record.pid if record else None,
        "redis_url": without_password(redis_url) if redis_url else None,
        "processes": [
            {"name": name, "pid": pid, "restarts": record.restarts[name]} for name, pid in record.pids.items()
        ]
        if record
        else [],
        "health": health,
        "deployments": deployments,
        "models": loaded,
        "errors": errors,
    }


def _is_served(deployment: dict[str, Any]) -> bool:
    return not deployment["champion_version"] or any(replica["swapped"] for replica in deployment["replicas"])


async def _asked(what: str, work: Coroutine[Any, Any, Answer], errors: dict[str, str]) -> Answer | None:
    """The answer; None when there is none, and then the reason is among the errors."""
    try:
        return await work
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        errors[what] = f"{failure.code.name}: {failure.message}"
        return None


async def _redis(url: str | None, errors: dict[str, str]) -> list[dict[str, str]]:
    """The row of Redis; none when it is not known which one it is."""
    if url is None:
        return []
    status = "SERVING"
    client = connect(url, socket_timeout_s=_REDIS_DEADLINE_S)
    try:
        async with asyncio.timeout(_REDIS_DEADLINE_S):
            await wait_for_redis(client, url, 0)
    except TimeoutError:
        status, errors["redis"] = "UNREACHABLE", f"no answer within {_REDIS_DEADLINE_S:g} s"
    except QuantmeshError as error:
        status = "REFUSED" if isinstance(error, ConfigurationError) else "UNREACHABLE"
        errors["redis"] = error.message
    finally:
        await client.aclose()
    return [{"name": "redis", "address": without_password(url), "status": status}]


async def _health(addresses: Addresses) -> list[dict[str, str]]:
    kinds = {"feature_svc": services.FEATURE, "mlops_svc": services.MLOPS}
    asked = [
        (name, address, kinds.get(name, services.INFERENCE))
        for name, address in addresses.listeners
        if name != "gateway"
    ]
    http_status, statuses = await asyncio.gather(
        services.http_status(addresses.gateway, "/inference/health"),
        asyncio.gather(*(services.health(address, service) for _, address, service in asked)),
    )
    ports = [
        {"name": name, "address": address, "status": status}
        for (name, address, _), status in zip(asked, statuses, strict=True)
    ]
    status = _HTTP_HEALTH.get(http_status, f"HTTP {http_status}")
    return [*ports, {"name": "gateway", "address": addresses.gateway, "status": status}]


async def _deployments(address: str) -> list[dict[str, Any]]:
    """All deployments, each with its live replicas."""
    async with grpc_client.channel(address) as channel:
        mlops = MlopsServiceStub(channel)
        found: list[Deployment] = []
        token = ""
        while True:
            page = await mlops.ListDeployments(ListDeploymentsRequest(page_token=token), timeout=_DEADLINE_S)
            found.extend(page.deployments)
            token = page.next_page_token
            if not token:
                break
        answers = await asyncio.gather(
            *(mlops.GetDeployment(GetDeploymentRequest(strategy=each.strategy), timeout=_DEADLINE_S) for each in found)
        )
    return [
        {**convert.deployment(answer.deployment), "replicas": convert.replicas(answer.replicas)} for answer in answers
    ]


def _headline(place: Place) -> str:
    record = place.record
    if record is None:
        return f"No mesh runs on {place.settings.home}: start one with `quantmesh up`"
    redis = without_password(record.redis_url)
    return f"Mesh of process {record.pid}, Redis {redis}, logs in {record.logs_dir}"
