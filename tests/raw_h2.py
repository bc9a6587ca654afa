"""HTTP/2 by the frame: what no gRPC client would send, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

PREDICT = "/quantmesh.inference.v1.InferenceService/Predict"


def frame(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """gRPC's five bytes, and a message."""
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message


@dataclass
class Answer:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: bool = False

    @property
    def status(self) -> int:
        """grpc-status; -1 without one."""
        return int(self.headers.get("grpc-status", "-1"))


async def call(
    port: int, body: bytes, headers: Sequence[tuple[str, str]] = (), *, path: str = PREDICT, limit_s: float = 10.0
) -> Answer:
    """One stream on a connection of its own. `headers` replace those of a gRPC client, or come on top."""
    sent = {
        ":method": "POST",
        ":scheme": "http",
        ":authority": "test",
        ":path": path,
        "content-type": "application/grpc",
        "te": "trailers",
    } | dict(headers)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = H2Connection(
        H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
    )
    answer = Answer()
    try:
        connection.initiate_connection()
        connection.send_headers(1, list(sent.items()))
        for start in range(0, len(body), 16_000):
            connection.send_data(1, body[start : start + 16_000])
        connection.end_stream(1)
        writer.write(connection.data_to_send())
        async with asyncio.timeout(limit_s):
            while data := await reader.read(65_536):
                for event in connection.receive_data(data):
                    if isinstance(event, ResponseReceived | TrailersReceived):
                        answer.headers |= dict(event.headers)
                    elif isinstance(event, DataReceived):
                        answer.body += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, StreamReset | ConnectionTerminated):
                        answer.reset = True
                        return answer
                    elif isinstance(event, StreamEnded):
                        return answer
                writer.write(connection.data_to_send())
    finally:
        writer.close()
    return answer
