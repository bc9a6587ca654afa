"""The processes of the mesh, in the order in which they start, and how each shows that it is ready."""

from __future__ import annotations

import asyncio
import http.client
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtime import grpc_client
from runtime.supervisor import balancer
from runtime.supervisor.child import ChildSpec
from runtime.supervisor.record import Addresses

_CHECK_TIMEOUT_S = 2.0

FEATURE = "quantmesh.feature.v1.FeatureService"
INFERENCE = "quantmesh.inference.v1.InferenceService"
MLOPS = "quantmesh.mlops.v1.MlopsService"


def services(addresses: Addresses) -> Sequence[ChildSpec]:
    """The three services and the gateway; of inference_svc one process, or its replicas and their balancer."""
    return [
        ChildSpec("feature_svc", _module("feature_svc"), _grpc_serving(addresses.feature, FEATURE)),
        ChildSpec("mlops_svc", _module("mlops_svc"), _grpc_serving(addresses.mlops, MLOPS)),
        *_inference(addresses),
        ChildSpec("gateway", _module("gateway"), _http_ok(addresses.gateway, "/inference/health")),
    ]


def _inference(addresses: Addresses) -> Sequence[ChildSpec]:
    serving = _grpc_serving(addresses.inference, INFERENCE)
    if not addresses.replicas:
        return [ChildSpec("inference_svc", _module("inference_svc"), serving)]

    async def drain(within_s: float) -> None:
        await balancer.drain(addresses.balancer_admin, within_s)

    return [
        *(_replica(addresses, name) for name in addresses.replicas),
        ChildSpec(balancer.NAME, _module("runtime.supervisor.balancing"), serving, drain=drain),
    ]


def _replica(addresses: Addresses, name: str) -> ChildSpec:
    """A replica listens on a port of its own; that of inference_svc is the balancer's."""
    address = addresses.replicas[name]
    own = {
        "QUANTMESH_INFERENCE_PORT": _port(f"//{address}"),
        "QUANTMESH_INFERENCE_METRICS_PORT": _port(addresses.metrics[name]),
    }
    return ChildSpec(name, _module("inference_svc"), _grpc_serving(address, INFERENCE), environment=own)


def _port(url: str) -> str:
    return str(urlsplit(url).port)


def _module(name: str) -> list[str]:
    # -P: a folder of the same name where the user happens to stand must not be run instead.
    return [sys.executable, "-P", "-m", name]


async def health(address: str, service: str) -> str:
    """gRPC health of a service by name, such as `SERVING`; `UNREACHABLE` when it does not answer."""
    async with grpc_client.channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its types know only the synchronous channel
        try:
            response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=_CHECK_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


async def http_status(url: str, path: str) -> int:
    """HTTP status of a GET, past any proxy; 0 when nothing answers."""
    return await asyncio.to_thread(_get, urlsplit(url).netloc, path)


def _get(host: str, path: str) -> int:
    connection = http.client.HTTPConnection(host, timeout=_CHECK_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _grpc_serving(address: str, service: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await health(address, service) == "SERVING"

    return ready


def _http_ok(url: str, path: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await http_status(url, path) == http.HTTPStatus.OK

    return ready
