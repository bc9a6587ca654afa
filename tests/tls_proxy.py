"""A TLS listener before a server that speaks in the clear, and the certificates for it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """Files, PEM."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @property
    def parameters(self) -> str:
        """What a Redis URL says of them."""
        return f"ssl_ca_certs={self.ca}&ssl_certfile={self.client}&ssl_keyfile={self.client_key}"


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
def tls_proxy(target_port: int, files: Certificates, port: int = 0, clear_from: str | None = None) -> Iterator[int]:
    """Listen by TLS, demand a client's certificate, and pass on what it says; yields the port.

    Servers that know one another by the address at which clients find them come there too, in the clear: from
    `clear_from`, an address that no client has. In a thread of its own: it outlives the event loop of one test.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.load_cert_chain(files.server, files.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tls-proxy", daemon=True)
    thread.start()
    tasks: set[asyncio.Task[None]] = set()

    def begin(work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def take(connection: socket.socket, source: str) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with suppress(OSError):  # who does not come by TLS as it should is let go
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=None if source == clear_from else context
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                upstream_reader, upstream_writer = await asyncio.open_connection(HOST, target_port)
                try:
                    await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))
                finally:
                    upstream_writer.close()
            finally:
                writer.close()

    async def listen(listener: socket.socket) -> None:
        while True:
            connection, (source, _) = await loop.sock_accept(listener)
            begin(take(connection, source))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with socket.create_server((HOST, port), backlog=128) as listener:
        listener.setblocking(False)
        loop.call_soon_threadsafe(lambda: begin(listen(listener)))
        try:
            yield listener.getsockname()[1]
        finally:
            asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
