"""Envoy's admin interface, on its Unix socket."""

from __future__ import annotations

import asyncio

_ANSWER_WITHIN_S = 1.0


async def start_draining(admin: str) -> None:
    """Send callers away with their next answer, and take no more connections. Raises as `ask`."""
    await ask(admin, "POST", "/drain_listeners?graceful&skip_exit")


async def ask(admin: str, method: str, path: str) -> str:
    """What the admin interface answers. Raises OSError when it does not, or refuses; TimeoutError."""
    async with asyncio.timeout(_ANSWER_WITHIN_S):
        reader, writer = await asyncio.open_unix_connection(admin)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            answer = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
    status, _, rest = answer.partition("\r\n")
    if status != "HTTP/1.1 200 OK":
        raise OSError(f"{method} {path}: {status}")
    return rest.partition("\r\n\r\n")[2]
