"""The peers and the floors: each in a process of its own, with the same model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.inference import oip
from bench.inference.environments import FOLDER, environment, system_python
from bench.inference.processes import Server
from bench.inference.targets import Check, GrpcTarget, RestTarget, Role
from bench.inference.workload import Predictions, Rows, Workload
from bench.load.build import binary
from runtime.ports import free_port

ECHO, AIO_ECHO = "C++ echo", "grpc.aio echo"
MLSERVER, MLSERVER_INLINE, TRITON, FASTAPI = "MLServer", "MLServer, in process", "Triton", "FastAPI + thread pool"

_MODEL = "bench"


@dataclass(frozen=True, slots=True)
class Peer:
    """What can be asked of a peer; None: it does not do that, or not in this bench."""

    predict: GrpcTarget | None = None
    batch: GrpcTarget | None = None
    rest: RestTarget | None = None


class Peers:
    """Starts peers in a folder; they end with the stack. Each method raises UnavailableError."""

    def __init__(self, stack: AsyncExitStack, folder: Path, workload: Workload) -> None:
        self._stack = stack
        self._folder = folder
        self._workload = workload

    async def echo(self, method: str, payloads: list[bytes]) -> GrpcTarget:
        """The floor of the transport."""
        port = free_port()
        await self._start(ECHO, [str(binary("grpc_echo")), f"127.0.0.1:{port}", method], port)
        return self._echo_target(ECHO, port, method, payloads)

    async def aio_echo(self, method: str, payloads: list[bytes]) -> GrpcTarget:
        """The floor of a server in Python, by the project's own interpreter and grpcio."""
        port = free_port()
        command = [sys.executable, str(FOLDER / "aio_echo_peer.py"), str(port), method]
        await self._start(AIO_ECHO, command, port)
        return self._echo_target(AIO_ECHO, port, method, payloads)

    def _echo_target(self, name: str, port: int, method: str, payloads: list[bytes]) -> GrpcTarget:
        return GrpcTarget(name, Role.FLOOR, f"127.0.0.1:{port}", method, payloads, (), None)

    async def mlserver(self, workers: int) -> Peer:
        """MLServer; with 1 worker, its default, models run in another process, with 0 in its own."""
        name = MLSERVER if workers else MLSERVER_INLINE
        bin_folder = environment("mlserver")
        grpc_port, rest_port = _two_ports()
        home = self._folder / f"mlserver-{workers}" / _MODEL
        home.mkdir(parents=True)
        quiet = {"version": 1, "disable_existing_loggers": True, "root": {"level": "WARNING"}}
        (home.parent / "logging.json").write_text(json.dumps(quiet))
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "grpc_port": grpc_port,
            "http_port": rest_port,
            "metrics_endpoint": None,
            "parallel_workers": workers,
            "logging_settings": str(home.parent / "logging.json"),
        }
        model = {
            "name": _MODEL,
            "implementation": "mlserver_peer.OnnxRuntime",
            "parameters": {"uri": str(self._workload.onnx)},
        }
        (home.parent / "settings.json").write_text(json.dumps(settings))
        (home / "model-settings.json").write_text(json.dumps(model))
        command = [str(bin_folder / "mlserver"), "start", str(home.parent)]
        await self._start(name, command, grpc_port, rest_port, PYTHONPATH=str(FOLDER))
        bodies: list[dict[str, Any]] = [{"inputs": [_tensor(row[None])]} for row in self._workload.rows]
        url = f"http://127.0.0.1:{rest_port}/v2/models/{_MODEL}/infer"
        rest = RestTarget(name, Role.PEER, url, bodies, self._workload.answers.tolist(), _first_output)
        return self._oip_peer(name, grpc_port, rest)

    async def triton(self) -> Peer:
        """NVIDIA Triton from its wheel."""
        python = environment("triton", system_python("3.11")) / "python"
        grpc_port, http_port = _two_ports()
        command = [
            str(python),
            str(FOLDER / "triton_peer.py"),
            str(self._workload.onnx),
            str(grpc_port),
            str(http_port),
        ]
        await self._start(TRITON, command, grpc_port, http_port)
        return self._oip_peer(TRITON, grpc_port)

    async def fastapi(self) -> Peer:
        """FastAPI with a `def` endpoint."""
        python = environment("fastapi") / "python"
        port = free_port()
        await self._start(
            FASTAPI, [str(python), str(FOLDER / "fastapi_peer.py"), str(self._workload.onnx), str(port)], port
        )
        bodies: list[dict[str, Any]] = [{"features": row.tolist()} for row in self._workload.rows]
        answers = self._workload.answers.tolist()
        url = f"http://127.0.0.1:{port}/predict"
        rest = RestTarget(FASTAPI, Role.PEER, url, bodies, answers, lambda answer: float(answer["prediction"]))
        return Peer(rest=rest)

    async def _start(self, name: str, command: list[str], *ports: int, **variables: str) -> None:
        log = self._folder / f"{name.replace(' ', '-').replace(',', '')}.log"
        server = Server(name, command, log, variables)
        self._stack.push_async_callback(server.stop)
        await server.start(*ports)

    def _oip_peer(self, name: str, port: int, rest: RestTarget | None = None) -> Peer:
        work = self._workload
        single = [(row[None], work.answers[i : i + 1]) for i, row in enumerate(work.rows)]
        batches = zip(work.batches, work.batch_answers, strict=True)
        return Peer(self._oip_target(name, port, single), self._oip_target(name, port, batches), rest)

    def _oip_target(self, name: str, port: int, asked: Iterable[tuple[Rows, Predictions]]) -> GrpcTarget:
        rows, answers = zip(*asked, strict=True)
        requests = [oip.request(_MODEL, each) for each in rows]
        # The answer's last bytes are the last prediction.
        check = Check("float@-4", [float(answer[-1]) for answer in answers])
        return GrpcTarget(name, Role.PEER, f"127.0.0.1:{port}", oip.METHOD, requests, answers, oip.predictions, check)


def _two_ports() -> tuple[int, int]:
    first = second = free_port()
    while second == first:
        second = free_port()
    return first, second


def _tensor(rows: Rows) -> dict[str, Any]:
    data = rows.ravel().tolist()
    return {"name": "rows", "datatype": "FP32", "shape": list(rows.shape), "data": data}


def _first_output(answer: dict[str, Any]) -> float:
    return float(np.asarray(answer["outputs"][0]["data"]).ravel()[0])
