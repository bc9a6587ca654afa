"""The floor of a server in Python, an echo by grpc.aio and uvloop: `python aio_echo_peer.py PORT METHOD`.

`METHOD` (`/package.Service/Method`) is unary; every other method is a bidirectional stream. Imports nothing of
quantmesh.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import uvloop


class Echo(grpc.GenericRpcHandler):
    """Bytes in, the same bytes out."""

    def __init__(self, unary: str) -> None:
        self._unary = unary

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of any method."""
        if details.method == self._unary:
            return grpc.unary_unary_rpc_method_handler(self._answer)
        return grpc.stream_stream_rpc_method_handler(self._answers)

    async def _answer(self, request: bytes, context: object) -> bytes:
        return request

    async def _answers(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


async def main(port: int, method: str) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(method),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
