"""The one gRPC server bootstrap of the mesh: grpc.aio, health, reflection, limits, keepalive and a graceful drain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from runtime.errors import PortInUseError
from runtime.grpc_interceptor import MeshInterceptor
from runtime.ports import address, dialled, require_free
from runtime.settings import MeshSettings

_PENDING_CALLS = 10_000
"""Calls that wait to be looked at, and calls of one connection."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where a server listens and what it bears. `setting` is the name of the setting that holds the port.

    `behind` is a Unix socket to listen on in place of host and port, on which whoever listens there passes calls on.
    """

    host: str
    port: int
    setting: str
    max_message_bytes: int = 4 * 1024 * 1024
    max_concurrent_rpcs: int = 1000
    default_deadline_s: float = 30.0
    drain_grace_s: float = 10.0
    behind: Path | None = None

    @classmethod
    def of(cls, settings: MeshSettings, port: int, setting: str, behind: Path | None = None) -> ServerConfig:
        """Take all but the port from the settings."""
        return cls(
            host=settings.host,
            port=port,
            setting=setting,
            max_message_bytes=settings.max_message_bytes,
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
            default_deadline_s=settings.default_deadline_s,
            drain_grace_s=settings.drain_grace_s,
            behind=behind,
        )


class MeshServer:
    """A grpc.aio server. Add servicers to `server`, then `start`; `drain` ends it."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._health = health.aio.HealthServicer()
        self._services: tuple[str, ...] = ()
        self._serving = False
        self.port = 0
        self.server = grpc.aio.server(
            interceptors=[MeshInterceptor(config.default_deadline_s, config.max_concurrent_rpcs)],
            options=[
                # Without this, two servers share a port in silence and split its calls.
                ("grpc.so_reuseport", 0),
                # What is more is refused with a reason; gRPC's own limit would cut calls off before they are seen.
                ("grpc.server.max_pending_requests", _PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALLS),
                ("grpc.max_concurrent_streams", _PENDING_CALLS),
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )

    @property
    def address(self) -> str:
        """`host:port` that clients on this machine dial."""
        return address(dialled(self._config.host), self.port)

    async def start(self, service_names: Sequence[str]) -> int:
        """Listen and serve; every service is SERVING. Returns the port. Raises PortInUseError."""
        self._services = tuple(service_names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)
        self.port = self._bind()
        await self.server.start()
        for name in ("", *self._services):
            await self._health.set(name, _SERVING)
        self._serving = True
        return self.port

    @property
    def serving(self) -> bool:
        """Whether it serves, and is not on its way out."""
        return self._serving

    def _bind(self) -> int:
        config = self._config
        if config.behind is not None:
            self.server.add_insecure_port(f"unix:{config.behind}")
            return config.port
        # gRPC prints a stack of its own when it can't bind; ask first, so that the log has one clear line.
        require_free(config.host, config.port, config.setting)
        try:
            return self.server.add_insecure_port(address(config.host, config.port))
        except RuntimeError as error:
            raise PortInUseError(config.host, config.port, config.setting) from error

    async def set_serving(self, service_name: str, serving: bool) -> None:
        """Say whether one service can do its work."""
        await self._health.set(service_name, _SERVING if serving else _NOT_SERVING)

    async def not_serving(self) -> None:
        """Tell every health watcher that this server is going away."""
        self._serving = False
        await self._health.enter_graceful_shutdown()

    async def drain(self) -> None:
        """NOT_SERVING, then refuse new RPCs and let those in flight finish, up to the grace."""
        await self.not_serving()
        await self.server.stop(self._config.drain_grace_s)
