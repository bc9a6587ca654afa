"""Run the gateway as a process. Exit codes as in `runtime.process`."""

from __future__ import annotations

import signal
import socket
import sys

import structlog
import uvicorn

from gateway.app import create_app
from gateway.settings import GatewaySettings
from runtime import logs, telemetry
from runtime.errors import ConfigurationError
from runtime.ports import require_free
from runtime.process import EX_CONFIG, load_settings

log = structlog.get_logger()


class _Server(uvicorn.Server):
    """Says what the other services say; uvicorn's own lines are left out."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("serving", port=self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping")
        await super().shutdown(sockets)


def main() -> None:
    """Serve until SIGTERM or SIGINT, let requests in flight finish, and exit the process."""
    settings = load_settings(GatewaySettings)
    logs.configure("gateway", settings)
    provider = telemetry.configure("gateway")
    try:
        require_free(settings.host, settings.gateway_port, "QUANTMESH_GATEWAY_PORT")
        server = _Server(
            uvicorn.Config(
                create_app(settings),
                host=settings.host,
                port=settings.gateway_port,
                log_config=None,  # uvicorn's lines go where the others do
                log_level="warning",
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=round(settings.drain_grace_s),
            )
        )
        # uvicorn has these handlers only while it runs, and raises the signal that ended it once more when it is done:
        # with the default ones, a signal just before would be a kill, and so would every clean end.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run()
        if server.started:
            log.info("stopped")
        code = 0 if server.started else 1
    except ConfigurationError as error:
        log.error(error.message)
        code = EX_CONFIG
    finally:
        provider.shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
