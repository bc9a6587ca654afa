"""The `quantmesh` command, run as a user runs it, against real gRPC servers and a real mesh."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from quantmesh.inference.v1 import inference_service_pb2 as inference_pb
from quantmesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from quantmesh.inference.v1.model_pb2 import Model
from quantmesh.mlops.v1 import mlops_service_pb2 as mlops_pb
from quantmesh.mlops.v1.deployment_pb2 import Deployment, ReplicaStatus
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceServicer, add_MlopsServiceServicer_to_server
from runtime.errors import FailedPreconditionError, InvalidInputError
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.ports import free_port
from tests.waiting import until

VERSION = "cd" * 32
PORTS = (
    "FEATURE_PORT",
    "INFERENCE_PORT",
    "MLOPS_PORT",
    "GATEWAY_PORT",
    "FEATURE_METRICS_PORT",
    "INFERENCE_METRICS_PORT",
    "MLOPS_METRICS_PORT",
)


@dataclass
class Said:
    code: int
    out: str
    err: str


class Command:
    """Runs `quantmesh` with an environment of its own."""

    def __init__(self, home: Path, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUANTMESH_")}
        self.environment = {**kept, "QUANTMESH_HOME": str(home), "COLUMNS": "200", **variables}

    async def start(self, *arguments: str, feed: bool = False) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from runtime.cli import main; main()",
            *arguments,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE if feed else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str, stdin: str | None = None) -> Said:
        process = await self.start(*arguments, feed=stdin is not None)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode() if stdin is not None else None), 60)
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())


class Inference(InferenceServiceServicer):
    """Predicts the sum."""

    async def Predict(self, request: Any, context: grpc.aio.ServicerContext) -> inference_pb.PredictResponse:
        if len(request.features) != 2:
            raise InvalidInputError.of_field("features", f"has {len(request.features)}; the model takes 2")
        return inference_pb.PredictResponse(
            prediction=sum(request.features), model_name=request.model_name, model_version=VERSION, generation=3
        )

    async def BatchPredict(self, request: Any, context: grpc.aio.ServicerContext) -> inference_pb.BatchPredictResponse:
        return inference_pb.BatchPredictResponse(
            predictions=[sum(row.features) for row in request.batch],
            batch_size=len(request.batch),
            model_name=request.model_name,
        )

    async def ListModels(self, request: Any, context: grpc.aio.ServicerContext) -> inference_pb.ListModelsResponse:
        model = Model(
            name="sum", version=VERSION, strategy="equities", alias="champion", generation=3, feature_names=["a", "b"]
        )
        return inference_pb.ListModelsResponse(models=[model])

    async def GetModel(self, request: Any, context: grpc.aio.ServicerContext) -> inference_pb.GetModelResponse:
        raise NotImplementedError


class Mlops(MlopsServiceServicer):
    """Deploys whatever it is told, at generation 4."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def Promote(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.PromoteResponse:
        self.requests.append(request)
        if request.HasField("expected_generation") and request.expected_generation != 3:
            raise FailedPreconditionError("the deployment is at generation 3", reason="STALE_GENERATION")
        return mlops_pb.PromoteResponse(
            deployment=Deployment(strategy=request.strategy, champion_version=request.version, generation=4),
            replicas=[ReplicaStatus(replica_id="r1", address="h:1", generation=3, error="no memory")],
            all_swapped=False,
            elapsed_ms=12.5,
        )

    async def Rollback(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.RollbackResponse:
        self.requests.append(request)
        return mlops_pb.RollbackResponse(
            deployment=Deployment(strategy=request.strategy, champion_version=VERSION, generation=5), all_swapped=True
        )

    async def ListDeployments(
        self, request: Any, context: grpc.aio.ServicerContext
    ) -> mlops_pb.ListDeploymentsResponse:
        deployment = Deployment(strategy="equities", champion_version=VERSION, generation=3)
        return mlops_pb.ListDeploymentsResponse(deployments=[deployment])

    async def GetDeployment(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.GetDeploymentResponse:
        raise NotImplementedError

    async def RegisterModel(self, request_iterator: Any, context: Any) -> mlops_pb.RegisterModelResponse:
        raise NotImplementedError

    def WatchDeployments(self, request: Any, context: Any) -> AsyncIterator[mlops_pb.WatchDeploymentsResponse]:
        raise NotImplementedError


@pytest.fixture
def mlops() -> Mlops:
    return Mlops()


@pytest.fixture
async def quantmesh(tmp_path: Path, mlops: Mlops) -> AsyncIterator[Command]:
    """The command, with its settings pointing at servers of this test."""
    servers = [MeshServer(ServerConfig("127.0.0.1", 0, "TEST_PORT", drain_grace_s=0.1)) for _ in range(2)]
    add_InferenceServiceServicer_to_server(Inference(), servers[0].server)
    add_MlopsServiceServicer_to_server(mlops, servers[1].server)
    await servers[0].start(["quantmesh.inference.v1.InferenceService"])
    await servers[1].start(["quantmesh.mlops.v1.MlopsService"])
    yield Command(
        tmp_path,
        QUANTMESH_INFERENCE_PORT=str(servers[0].port),
        QUANTMESH_MLOPS_PORT=str(servers[1].port),
        QUANTMESH_FEATURE_PORT=str(free_port()),
        QUANTMESH_GATEWAY_PORT=str(free_port()),
    )
    for server in servers:
        await server.drain()


async def test_predict_takes_arguments_also_negative_ones(quantmesh: Command) -> None:
    said = await quantmesh("predict", "1.5", "-0.25", "--model", "equities", "--json")
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert (answer["prediction"], answer["model_name"], answer["model_version"], answer["generation"]) == (
        1.25,
        "equities",
        VERSION,
        3,
    )
    for_people = await quantmesh("predict", "1.5", "-0.25")
    assert "1.25" in for_people.out
    assert VERSION in for_people.out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1, 2]", {"prediction": 3.0, "model_name": "champion"}),
        ('{"features": [1, 2], "model_name": "m"}', {"prediction": 3.0, "model_name": "m"}),
        ("[[1, 2], [3, 4]]", {"predictions": [3.0, 7.0], "batch_size": 2, "model_name": "champion"}),
        ('{"batch": [[1, 2]]}', {"predictions": [3.0], "batch_size": 1, "model_name": "champion"}),
    ],
)
async def test_predict_takes_a_file(
    quantmesh: Command, tmp_path: Path, content: str, expected: dict[str, object]
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(content)
    from_file = await quantmesh("predict", "--file", str(file), "--json")
    from_stdin = await quantmesh("predict", "--file", "-", "--json", stdin=content)
    for said in (from_file, from_stdin):
        assert said.code == 0, said.err
        assert expected.items() <= json.loads(said.out).items()


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict",),
        ("predict", "1", "--file", "x.json"),
        ("predict", "one"),
        ("predict", "--file", "no-such-file.json"),
        ("predict", "--modle", "m", "1"),
        ("promote", "equities"),
        ("promote", "equities", VERSION, "--expected-generation", "-1"),
        ("no-such-command",),
    ],
)
async def test_wrong_usage_is_2(quantmesh: Command, arguments: tuple[str, ...]) -> None:
    said = await quantmesh(*arguments)
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err


@pytest.mark.parametrize("content", ["{", "3", '{"features": [true]}', "[1, [2]]", '[["1"]]'])
async def test_a_file_of_another_shape_is_wrong_usage(quantmesh: Command, content: str) -> None:
    said = await quantmesh("predict", "--file", "-", stdin=content)
    assert said.code == 2
    assert "--file -" in said.err


async def test_a_refused_call_is_1_with_status_reason_and_field(quantmesh: Command) -> None:
    said = await quantmesh("predict", "1")
    assert (said.code, said.out) == (1, "")
    assert said.err == "INVALID_ARGUMENT (INVALID_FIELD): features: has 1; the model takes 2\n"
    as_json = await quantmesh("predict", "1", "--json")
    assert json.loads(as_json.out) == {
        "error": {
            "status": "INVALID_ARGUMENT",
            "reason": "INVALID_FIELD",
            "message": "features: has 1; the model takes 2",
            "fields": [{"field": "features", "description": "has 1; the model takes 2"}],
        }
    }


async def test_a_service_that_is_not_there_is_1_in_one_line(quantmesh: Command) -> None:
    said = await quantmesh("models", "--address", f"127.0.0.1:{free_port()}")
    assert said.code == 1
    assert said.err.startswith("UNAVAILABLE: ")
    assert said.err.count("\n") == 1


async def test_models_lists_what_is_loaded(quantmesh: Command) -> None:
    said = await quantmesh("models", "--json")
    assert [(model["alias"], model["version"]) for model in json.loads(said.out)["models"]] == [("champion", VERSION)]
    assert VERSION in (await quantmesh("models")).out


async def test_promote_sends_what_was_said_and_names_the_replicas_that_lag(quantmesh: Command, mlops: Mlops) -> None:
    said = await quantmesh("promote", "equities", VERSION, "--expected-generation", "3", "--reason", "better", "--json")
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert answer["deployment"]["generation"] == 4
    assert answer["replicas"][0]["error"] == "no memory"
    assert "not every replica serves generation 4 yet" in said.err
    request = mlops.requests[0]
    assert (request.strategy, request.version, request.expected_generation, request.reason) == (
        "equities",
        VERSION,
        3,
        "better",
    )
    assert request.request_id


async def test_a_stale_generation_is_refused_and_none_is_no_check(quantmesh: Command, mlops: Mlops) -> None:
    stale = await quantmesh("promote", "equities", VERSION, "--expected-generation", "0")
    assert stale.code == 1
    assert stale.err == "FAILED_PRECONDITION (STALE_GENERATION): the deployment is at generation 3\n"
    assert (await quantmesh("promote", "equities", VERSION)).code == 0
    assert [request.HasField("expected_generation") for request in mlops.requests] == [True, False]


async def test_rollback(quantmesh: Command, mlops: Mlops) -> None:
    said = await quantmesh("rollback", "equities", "--reason", "drawdown")
    assert said.code == 0, said.err
    assert VERSION in said.out
    assert (mlops.requests[0].strategy, mlops.requests[0].reason) == ("equities", "drawdown")


async def test_status_shows_what_serves_and_is_1_when_something_does_not(quantmesh: Command) -> None:
    said = await quantmesh("status", "--json")
    assert said.code == 1
    state = json.loads(said.out)
    assert {port["name"]: port["status"] for port in state["health"]} == {
        "feature_svc": "UNREACHABLE",
        "inference_svc": "SERVING",
        "mlops_svc": "SERVING",
        "gateway": "UNREACHABLE",
    }
    assert (state["healthy"], state["pid"], state["processes"]) == (False, None, [])
    assert [deployment["generation"] for deployment in state["deployments"]] == [3]
    assert [model["version"] for model in state["models"]] == [VERSION]
    assert "No mesh runs on" in (await quantmesh("status")).out


async def test_a_setting_that_does_not_parse_is_78_and_named(tmp_path: Path) -> None:
    said = await Command(tmp_path, QUANTMESH_PARTITIONS="many")("status")
    assert (said.code, said.out) == (78, "")
    assert "QUANTMESH_PARTITIONS" in said.err


@pytest.mark.parametrize("command", ["up", "status", "predict", "models", "promote", "rollback"])
async def test_every_command_has_help_with_an_example(tmp_path: Path, command: str) -> None:
    said = await Command(tmp_path)(command, "--help")
    assert said.code == 0
    assert f"$ quantmesh {command}" in said.out
    assert "--json" in said.out


async def test_a_broken_extension_breaks_only_itself(tmp_path: Path) -> None:
    """Commands of other packages are found by entry point, listed without being imported, and may be missing."""
    info = tmp_path / "site" / "extra-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[quantmesh.commands]\nabsent = no_such_module:app\ncostly = costly_module:app\nhello = hello_module:app\n"
    )
    (tmp_path / "site" / "costly_module.py").write_text('"""Costs a lot."""\nraise SystemExit("was imported")\n')
    (tmp_path / "site" / "hello_module.py").write_text(
        '"""Says hello."""\nimport typer\napp = typer.Typer()\n'
        '@app.command()\ndef hi(name: str) -> None: print("hi", name)\n'
    )
    command = Command(tmp_path / "home", PYTHONPATH=str(tmp_path / "site"))
    listed = await command("--help")
    assert listed.code == 0, listed.err
    for text in ("Costs a lot.", "Says hello.", "no_such_module", "predict"):
        assert text in listed.out
    assert (await command("hello", "you")).out == "hi you\n"
    absent = await command("absent")
    assert (absent.code, absent.out) == (1, "")
    assert absent.err.startswith("command absent needs no_such_module:app")


async def test_help_does_not_load_grpc(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom runtime.cli import main\ntry: main()\nfinally: print('grpc' in sys.modules, file=sys.stderr)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "--help", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert said.decode().split() == ["False"]


async def test_up_on_a_taken_port_is_78_and_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {f"QUANTMESH_{name}": "0" for name in PORTS}
        port = str(taken.getsockname()[1])
        said = await Command(tmp_path, **{**ports, "QUANTMESH_GATEWAY_PORT": port})("up")
    assert (said.code, said.out) == (78, "")
    assert "QUANTMESH_GATEWAY_PORT" in said.err
    assert "Traceback" not in said.err


async def test_up_runs_the_whole_mesh_heals_it_and_stops_on_a_signal(tmp_path: Path) -> None:
    quantmesh = Command(tmp_path, **{f"QUANTMESH_{name}": "0" for name in PORTS})
    process = await quantmesh.start("up", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        up = json.loads(await asyncio.wait_for(process.stdout.readline(), 90))
        assert set(up["pids"]) == {"redis", "feature_svc", "mlops_svc", "inference_svc", "gateway"}
        state = json.loads((await quantmesh("status", "--json")).out)
        assert state["healthy"], state
        assert {p["name"]: p["pid"] for p in state["processes"]} == up["pids"]
        # No model is there yet: the call arrives, and is refused by the service itself.
        assert (await quantmesh("predict", "1")).err.startswith("NOT_FOUND")

        second = await quantmesh("up")
        assert (second.code, second.out) == (1, "")
        assert f"process {process.pid}" in second.err

        os.kill(up["pids"]["inference_svc"], signal.SIGKILL)

        async def healed() -> bool:
            state = json.loads((await quantmesh("status", "--json")).out)
            return state["healthy"] and [p["restarts"] for p in state["processes"]] == [0, 0, 0, 1, 0]

        await until(healed, 60)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, out) == (0, b"")
        assert time.monotonic() - started < 15
        assert b"restarting" in err
        assert not (tmp_path / "run" / "mesh.json").exists()
        assert not any(Path(f"/proc/{pid}").exists() for pid in up["pids"].values())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_second_signal_kills_what_will_not_end(tmp_path: Path) -> None:
    ports = {f"QUANTMESH_{name}": "0" for name in PORTS}
    process = await Command(tmp_path, QUANTMESH_DRAIN_GRACE_S="100", **ports).start("up", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        pids = json.loads(await asyncio.wait_for(process.stdout.readline(), 90))["pids"]
        os.kill(pids["gateway"], signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        while b"once more" not in await asyncio.wait_for(process.stderr.readline(), 10):
            pass
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 10)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
