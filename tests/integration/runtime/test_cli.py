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
from importlib.metadata import version
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
from quantmesh.mlops.v1.deployment_pb2 import Deployment, ReplicaStatus, ShadowStatus
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceServicer, add_MlopsServiceServicer_to_server
from runtime.errors import FailedPreconditionError, InvalidInputError, QuantmeshError, UnavailableError
from runtime.grpc_server import MeshServer, ServerConfig
from runtime.ports import free_port
from tests.integration.runtime.command import Command
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


def deployed(strategy: str) -> Deployment:
    return Deployment(strategy=strategy, champion_version=VERSION, generation=3)


class Mlops(MlopsServiceServicer):
    """Deploys whatever it is told, at generation 4."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.replicas = [ReplicaStatus(replica_id="r1", address="h:1", generation=4, swapped=True)]
        self.broken: QuantmeshError | None = None

    async def Promote(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.PromoteResponse:
        self.requests.append(request)
        if request.HasField("expected_generation") and request.expected_generation != 3:
            raise FailedPreconditionError("the deployment is at generation 3", reason="STALE_GENERATION")
        if self.broken is not None:
            raise self.broken
        return mlops_pb.PromoteResponse(
            deployment=Deployment(strategy=request.strategy, champion_version=request.version, generation=4),
            replicas=self.replicas,
            all_swapped=all(replica.swapped for replica in self.replicas),
            elapsed_ms=12.5,
        )

    async def Rollback(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.RollbackResponse:
        self.requests.append(request)
        return mlops_pb.RollbackResponse(
            deployment=Deployment(strategy=request.strategy, champion_version=VERSION, generation=5), all_swapped=True
        )

    async def StartShadow(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.StartShadowResponse:
        self.requests.append(request)
        return mlops_pb.StartShadowResponse(
            deployment=Deployment(
                strategy=request.strategy, champion_version=VERSION, challenger_version=request.version, generation=4
            ),
            replicas=self.replicas,
            all_ready=all(replica.shadow.ready for replica in self.replicas),
        )

    async def StopShadow(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.StopShadowResponse:
        self.requests.append(request)
        return mlops_pb.StopShadowResponse(
            deployment=deployed(request.strategy), replicas=self.replicas, all_swapped=True
        )

    async def ListDeployments(
        self, request: Any, context: grpc.aio.ServicerContext
    ) -> mlops_pb.ListDeploymentsResponse:
        if self.broken is not None:
            raise self.broken
        if not request.page_token:
            return mlops_pb.ListDeploymentsResponse(deployments=[deployed("equities")], next_page_token="2")
        return mlops_pb.ListDeploymentsResponse(deployments=[deployed("futures")])

    async def GetDeployment(self, request: Any, context: grpc.aio.ServicerContext) -> mlops_pb.GetDeploymentResponse:
        return mlops_pb.GetDeploymentResponse(deployment=deployed(request.strategy), replicas=self.replicas)

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


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Expecting"),
        ("3", "features must be a list of numbers"),
        ("{}", "features must be a list of numbers"),
        ('{"features": [true]}', "features[0] must be a number, not true"),
        ("[1, [2]]", "features[1] must be a number, not [2]"),
        ('[["1"]]', 'batch[0][0] must be a number, not "1"'),
        ('{"batch": [1, 2]}', "batch[0] must be a list of numbers"),
        ('{"batch": []}', "the batch is empty"),
        (f"[1, {10**400}]", "features[1] is not a finite number"),
        ("[[1], [NaN]]", "batch[1][0] is not a finite number"),
    ],
)
async def test_a_file_of_another_shape_is_wrong_usage(quantmesh: Command, content: str, why: str) -> None:
    said = await quantmesh("predict", "--file", "-", stdin=content)
    assert said.code == 2
    assert f"--file -: {why}" in said.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--fiel", "x.json"), "no such option: --fiel (did you mean --file?)"),
        (("1", "--jsn"), "no such option: --jsn (did you mean --json?)"),
        (("--modle=m", "1"), "no such option: --modle (did you mean --model?)"),
        (("-x", "1"), "no such option: -x"),
        (("1", "two"), "'two' is not a number"),
        (("1", "-inf"), "'-inf' is not a finite number"),
        (("1e400",), "'1e400' is not a finite number"),
    ],
)
async def test_what_is_no_number_is_no_feature(quantmesh: Command, arguments: tuple[str, ...], why: str) -> None:
    said = await quantmesh("predict", *arguments)
    assert said.code == 2
    assert why in said.err


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
    mlops.replicas = [ReplicaStatus(replica_id="r1", address="h:1", generation=3, error="no memory")]
    said = await quantmesh("promote", "equities", VERSION, "--expected-generation", "3", "--reason", "better", "--json")
    assert said.code == 1, "not every replica has swapped"
    answer = json.loads(said.out)
    assert answer["deployment"]["generation"] == 4
    assert answer["replicas"][0]["error"] == "no memory"
    assert "not every replica serves generation 4 yet" in said.err
    request = mlops.requests[0]
    assert answer["request_id"] == request.request_id
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
    said = await quantmesh("rollback", "equities", "--reason", "drawdown", "--request-id", "mine")
    assert said.code == 0, said.err
    assert VERSION in said.out
    request = mlops.requests[0]
    assert (request.strategy, request.reason, request.request_id) == ("equities", "drawdown", "mine")
    assert said.err == "no replica is live: generation 5 is recorded, and nothing serves it yet\n"


async def test_shadow_start_names_the_replicas_that_do_not_score_with_the_challenger(
    quantmesh: Command, mlops: Mlops
) -> None:
    challenger = "c" * 64
    shadow = ShadowStatus(challenger_version=challenger, error="no memory", rows_scored=5, rows_dropped=1)
    mlops.replicas = [ReplicaStatus(replica_id="r1", address="h:1", generation=4, swapped=True, shadow=shadow)]
    said = await quantmesh("shadow", "start", "equities", challenger, "--expected-generation", "3", "--json")
    assert said.code == 1
    assert "not every replica scores with the challenger yet" in said.err
    answer = json.loads(said.out)
    assert answer["deployment"]["challenger_version"] == challenger
    assert answer["replicas"][0]["shadow"] == {
        "challenger_version": challenger,
        "ready": False,
        "error": "no memory",
        "rows_scored": 5,
        "rows_dropped": 1,
    }
    request = mlops.requests[0]
    assert (request.strategy, request.version, request.expected_generation) == ("equities", challenger, 3)
    assert answer["request_id"] == request.request_id
    mlops.replicas[0].shadow.ready = True
    said = await quantmesh("shadow", "start", "equities", challenger, "--reason", "newer", "--request-id", "mine")
    assert said.code == 0, said.err
    assert challenger in said.out
    assert (mlops.requests[1].reason, mlops.requests[1].request_id) == ("newer", "mine")
    said = await quantmesh("shadow", "start", "equities", challenger[:12])
    assert (said.code, len(mlops.requests)) == (2, 2)


async def test_shadow_stop(quantmesh: Command, mlops: Mlops) -> None:
    said = await quantmesh("shadow", "stop", "equities", "--expected-generation", "4", "--reason", "seen")
    assert said.code == 0, said.err
    request = mlops.requests[0]
    assert (request.strategy, request.expected_generation, request.reason) == ("equities", 4, "seen")


@pytest.mark.parametrize("command", ["start", "stop", "pairs"])
async def test_the_commands_of_shadow_have_help_with_an_example(tmp_path: Path, command: str) -> None:
    said = await Command(tmp_path)("shadow", command, "--help")
    assert said.code == 0
    assert f"$ quantmesh shadow {command}" in said.out
    assert "--json" in said.out


async def test_a_change_that_may_have_been_made_can_be_asked_for_again(quantmesh: Command, mlops: Mlops) -> None:
    mlops.broken = UnavailableError("Redis does not answer: try again, with the same ids", reason="REDIS_UNAVAILABLE")
    said = await quantmesh("promote", "equities", VERSION)
    assert said.code == 1
    assert said.err.endswith(f"--request-id {mlops.requests[0].request_id})\n")
    as_json = await quantmesh("promote", "equities", VERSION, "--request-id", "mine", "--json")
    assert json.loads(as_json.out)["error"]["request_id"] == "mine"


async def test_a_part_of_a_digest_is_not_enough(quantmesh: Command, mlops: Mlops) -> None:
    said = await quantmesh("promote", "equities", VERSION[:12])
    assert (said.code, mlops.requests) == (2, [])
    assert "64 characters" in said.err


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
    assert [deployment["strategy"] for deployment in state["deployments"]] == ["equities", "futures"]
    assert [model["version"] for model in state["models"]] == [VERSION]
    drawn = (await quantmesh("status")).out
    assert "No mesh runs on" in drawn
    assert "1 of 1" in drawn


@pytest.fixture
async def all_serve(quantmesh: Command, redis_url: str) -> AsyncIterator[Command]:
    """The same, with a feature service, a gateway and Redis: nothing is ill."""
    feature = MeshServer(ServerConfig("127.0.0.1", 0, "TEST_PORT", drain_grace_s=0.1))
    await feature.start(["quantmesh.feature.v1.FeatureService"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    gateway = await asyncio.start_server(answer, "127.0.0.1", 0)
    quantmesh.environment |= {
        "QUANTMESH_FEATURE_PORT": str(feature.port),
        "QUANTMESH_GATEWAY_PORT": str(gateway.sockets[0].getsockname()[1]),
        "QUANTMESH_REDIS_URL": redis_url,
    }
    yield quantmesh
    gateway.close()
    await gateway.wait_closed()
    await feature.drain()


async def test_status_is_0_when_all_is_well(all_serve: Command) -> None:
    said = await all_serve("status", "--json")
    state = json.loads(said.out)
    assert (said.code, state["healthy"], state["errors"]) == (0, True, {}), state
    assert state["health"][0]["name"] == "redis"
    assert {port["status"] for port in state["health"]} == {"SERVING"}


async def test_redis_that_is_away_is_ill(all_serve: Command) -> None:
    all_serve.environment["QUANTMESH_REDIS_URL"] = f"redis://:s3cret@127.0.0.1:{free_port()}/0"
    said = await all_serve("status")
    assert said.code == 1
    assert "UNREACHABLE" in said.out
    assert "Redis: Redis at redis://127.0.0.1" in said.out
    assert "s3cret" not in said.out


async def test_a_champion_that_no_replica_has_loaded_is_ill(all_serve: Command, mlops: Mlops) -> None:
    mlops.replicas = [ReplicaStatus(replica_id="r1", address="h:1", generation=2, error="no memory")]
    said = await all_serve("status")
    assert said.code == 1
    assert "0 of 1" in said.out


async def test_what_cannot_be_asked_for_is_not_none(all_serve: Command, mlops: Mlops) -> None:
    mlops.broken = UnavailableError("Redis does not answer", reason="REDIS_UNAVAILABLE")
    all_serve.environment["QUANTMESH_INFERENCE_PORT"] = str(free_port())
    said = await all_serve("status")
    assert said.code == 1
    assert "Deployments: mlops_svc cannot be asked: UNAVAILABLE: Redis does not answer" in said.out
    assert "Models: inference_svc cannot be asked: UNAVAILABLE: " in said.out
    assert "none is loaded" not in said.out


@pytest.mark.parametrize("call", [("models",), ("predict", "1"), ("promote", "s", VERSION), ("rollback", "s")])
async def test_without_a_mesh_that_is_what_is_said(tmp_path: Path, call: tuple[str, ...]) -> None:
    ports = {"QUANTMESH_INFERENCE_PORT": str(free_port()), "QUANTMESH_MLOPS_PORT": str(free_port())}
    said = await Command(tmp_path, **ports)(*call)
    assert said.code == 1
    assert said.err.startswith(f"UNAVAILABLE: no mesh runs on {tmp_path}, and nothing answers at 127.0.0.1:")
    assert "`quantmesh up`" in said.err


async def test_a_digest_stays_in_one_piece_on_a_narrow_terminal(quantmesh: Command) -> None:
    code = (
        "import sys\nfrom rich.console import Console\n"
        "Console.is_terminal = property(lambda self: True)\nfrom runtime.cli import main\nmain()"
    )
    environment = {**quantmesh.environment, "COLUMNS": "80", "TERM": "dumb"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "status", env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().count(VERSION) == 3  # two deployments, one model


async def test_a_setting_that_does_not_parse_is_78_and_named(tmp_path: Path) -> None:
    said = await Command(tmp_path, QUANTMESH_PARTITIONS="many")("status")
    assert (said.code, said.out) == (78, "")
    assert "QUANTMESH_PARTITIONS" in said.err


@pytest.mark.parametrize("command", ["up", "status", "models"])
async def test_wrong_settings_are_told_as_json_too(tmp_path: Path, command: str) -> None:
    said = await Command(tmp_path, QUANTMESH_LOG_LEVEL="loud", QUANTMESH_REDIS_URL="http://h")(command, "--json")
    assert said.code == 78
    error = json.loads(said.out)["error"]
    assert error["reason"] == "SETTINGS_INVALID"
    assert {field["field"] for field in error["fields"]} == {"QUANTMESH_LOG_LEVEL", "QUANTMESH_REDIS_URL"}
    assert len(said.err.splitlines()) == 2


@pytest.mark.parametrize("command", ["up", "status"])
async def test_a_home_that_cannot_be_used_is_78_in_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    said = await Command(tmp_path / "file")(command)
    assert (said.code, said.out) == (78, "")
    assert said.err.startswith("QUANTMESH_HOME: ")
    assert said.err.count("\n") == 1


async def test_up_cannot_make_a_home_in_proc(tmp_path: Path) -> None:
    said = await Command(Path("/proc/x"))("up")
    assert said.code == 78
    assert said.err == (
        "QUANTMESH_HOME: /proc/x cannot be used (No such file or directory): set it to a folder that you may write to\n"
    )


async def test_a_misspelt_variable_is_told(quantmesh: Command) -> None:
    quantmesh.environment["QUANTMESH_PARTITION"] = "8"
    said = await quantmesh("models")
    assert said.code == 0
    assert said.err == "warning: QUANTMESH_PARTITION is not a setting: did you mean QUANTMESH_PARTITIONS?\n"


async def test_version(tmp_path: Path) -> None:
    assert (await Command(tmp_path)("--version")).out == f"quantmesh {version('quantmesh')}\n"


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


async def test_up_without_redis_waits_once_and_is_69(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    ports = {f"QUANTMESH_{name}": "0" for name in PORTS}
    command = Command(tmp_path, QUANTMESH_REDIS_URL=url, QUANTMESH_REDIS_WAIT_S="0.5", **ports)
    said = await command("up")
    assert (said.code, said.out) == (69, "")
    waiting, failed = said.err.splitlines()
    assert "waiting for Redis" in waiting
    assert url in waiting
    assert failed.startswith(f"Redis at {url} did not answer within 0.5 s")
    assert not list((tmp_path / "logs").glob("*_svc.log"))


async def test_up_is_given_up_while_it_waits_for_redis(tmp_path: Path) -> None:
    ports = {f"QUANTMESH_{name}": "0" for name in PORTS}
    process = await Command(tmp_path, QUANTMESH_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", **ports).start("up")
    assert process.stderr is not None
    try:
        await asyncio.wait_for(process.stderr.readline(), 20)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


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
        log = [json.loads(line) for line in (tmp_path / "logs" / "supervisor.log").read_text().splitlines()]
        restarted = [line["process"] for line in log if line["event"] == "process ended, restarting"]
        assert restarted == ["inference_svc"]
        assert (log[0]["event"], log[-1]["event"]) == ("starting", "stopped")
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
