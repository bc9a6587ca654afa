"""A TLS listener before a server that speaks in the clear, and the certificates for it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """Files, PEM."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def certificates(directory: Path) -> Certificates:
    """A CA of one's own, a certificate for 127.0.0.1 and one for a client; made by openssl."""
    directory.mkdir(parents=True)
    ca, ca_key = _signed(directory, "ca", "basicConstraints=critical,CA:TRUE", None)
    server, server_key = _signed(directory, "server", f"subjectAltName=IP:{HOST}", (ca, ca_key))
    client, client_key = _signed(directory, "client", "extendedKeyUsage=clientAuth", (ca, ca_key))
    return Certificates(ca, server, server_key, client, client_key)


def _signed(directory: Path, name: str, extension: str, issuer: tuple[Path, Path] | None) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += [
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        extension,
        "-out",
        str(certificate),
        "-keyout",
        str(key),
    ]
    if issuer is not None:
        command += ["-CA", str(issuer[0]), "-CAkey", str(issuer[1]), "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate, key


@contextmanager
def tls_proxy(target_port: int, files: Certificates) -> Iterator[int]:
    """Listen by TLS, demand a client's certificate, and pass on what it says; yields the port.

    In a thread of its own: it lives longer than the event loop of one test.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.load_cert_chain(files.server, files.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tls-proxy", daemon=True)
    thread.start()
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        with suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_connection(HOST, target_port)
            try:
                await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))
            finally:
                upstream_writer.close()
                writer.close()

    async def stop(listener: asyncio.Server) -> None:
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, HOST, 0, ssl=context), loop).result(10)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(listening), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
