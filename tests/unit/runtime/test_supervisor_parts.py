"""The parts of the supervisor that start nothing: back-off, settings as environment, ports, the record."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.backoff import Backoff
from runtime.errors import ConfigurationError, PortInUseError
from runtime.settings import MeshSettings
from runtime.supervisor.balancer import balancer_of
from runtime.supervisor.environment import child_environment, variables
from runtime.supervisor.listeners import addresses_of, with_ports
from runtime.supervisor.lock import HomeLock
from runtime.supervisor.record import (
    Addresses,
    MeshRecord,
    find_record,
    read_record,
    remove_record,
    write_record,
)
from runtime.supervisor.services import services

ANY_PORTS = {
    f"{name}_port": 0
    for name in (
        "feature",
        "inference",
        "mlops",
        "gateway",
        "feature_metrics",
        "inference_metrics",
        "mlops_metrics",
    )
}


def test_backoff_doubles_up_to_its_limit() -> None:
    backoff = Backoff()
    assert [backoff.wait_s(up_s=1) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_backoff_starts_anew_after_a_steady_time() -> None:
    backoff = Backoff()
    assert [backoff.wait_s(up_s) for up_s in (0, 0, 9.9, 10, 0)] == [0.1, 0.2, 0.4, 0.1, 0.2]


def test_a_child_reads_the_very_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = MeshSettings(
        home=tmp_path, redis_url="redis://:secret@h:1/0", partitions=7, drain_grace_s=0.25, default_strategy="a b"
    )
    for name, value in child_environment({}, settings, {}).items():
        monkeypatch.setenv(name, value)
    assert MeshSettings() == settings


def test_settings_win_over_what_is_inherited_and_the_extra_over_both() -> None:
    inherited = {"PATH": "/bin", "QUANTMESH_REDIS_URL": "redis://other", "QUANTMESH_PARTITIONS": "9", "INFER_A": "1"}
    environment = child_environment(inherited, MeshSettings(redis_url=None, partitions=3), {"INFER_A": "2"})
    assert environment["PATH"] == "/bin"
    assert "QUANTMESH_REDIS_URL" not in environment
    assert environment["QUANTMESH_PARTITIONS"] == "3"
    assert environment["INFER_A"] == "2"


def test_every_setting_has_its_variable() -> None:
    assert set(variables(MeshSettings())) == {f"QUANTMESH_{field.upper()}" for field in MeshSettings.model_fields}


def test_ports_left_open_are_chosen_and_differ() -> None:
    settings = with_ports(MeshSettings(**ANY_PORTS))
    chosen = {getattr(settings, field) for field in ANY_PORTS}
    assert len(chosen) == len(ANY_PORTS)
    assert 0 not in chosen
    assert addresses_of(settings).gateway == f"http://127.0.0.1:{settings.gateway_port}"


@pytest.mark.parametrize("field", ANY_PORTS)
def test_a_taken_port_names_its_setting(field: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = MeshSettings(**{**ANY_PORTS, field: taken.getsockname()[1]})
        with pytest.raises(PortInUseError, match=f"QUANTMESH_{field.upper()}"):
            with_ports(settings)


def test_two_equal_ports_are_found_before_any_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = MeshSettings(**{**ANY_PORTS, "mlops_port": port, "gateway_port": port})
        with pytest.raises(
            ConfigurationError, match="QUANTMESH_MLOPS_PORT and QUANTMESH_GATEWAY_PORT are both"
        ) as caught:
            with_ports(settings)
    assert caught.value.reason == "PORTS_EQUAL"


def test_several_replicas_have_ports_of_their_own_in_a_row() -> None:
    open_ports = {**ANY_PORTS, "replica_port": 0, "replica_metrics_port": 0}
    settings = with_ports(MeshSettings(replicas=3, **open_ports))
    addresses = addresses_of(settings)
    first = settings.replica_port
    assert addresses.replicas == {f"inference_svc-{n}": f"127.0.0.1:{first + n - 1}" for n in (1, 2, 3)}
    assert set(addresses.metrics) == {"feature_svc", "mlops_svc", "gateway", "balancer", *addresses.replicas}
    assert len(addresses.ports) == 7 + 2 * 3
    assert addresses.balancer_admin.endswith("run/balancer.sock")


def test_one_replica_is_inference_svc_and_the_ports_of_several_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = with_ports(MeshSettings(**ANY_PORTS, replica_port=taken.getsockname()[1]))
    addresses = addresses_of(settings)
    assert (addresses.replicas, addresses.balancer_admin) == ({}, "")
    assert "inference_svc" in addresses.metrics


@pytest.mark.parametrize("field", ["replica_port", "replica_metrics_port"])
def test_a_taken_port_of_a_replica_names_its_setting(field: str) -> None:
    open_ports = {**ANY_PORTS, "replica_port": 0, "replica_metrics_port": 0}
    first: int = getattr(with_ports(MeshSettings(replicas=2, **open_ports)), field)
    with socket.create_server(("127.0.0.1", first + 1)):
        settings = MeshSettings(replicas=2, **{**open_ports, field: first})
        with pytest.raises(PortInUseError, match=rf"port {first + 1} .*QUANTMESH_{field.upper()}"):
            with_ports(settings)


def test_ports_of_replicas_that_run_into_others_or_too_high_are_told() -> None:
    high = MeshSettings(replicas=2, **ANY_PORTS, replica_port=65535)
    with pytest.raises(ConfigurationError, match="QUANTMESH_REPLICA_PORT is too high"):
        with_ports(high)
    into = MeshSettings(replicas=3, **{**ANY_PORTS, "inference_port": 30063}, replica_port=30061)
    with pytest.raises(ConfigurationError, match="QUANTMESH_INFERENCE_PORT and QUANTMESH_REPLICA_PORT are both 30063"):
        with_ports(into)


def test_each_replica_and_the_balancer_are_processes_of_their_own() -> None:
    settings = MeshSettings(replicas=2)
    specs = {spec.name: spec for spec in services(addresses_of(settings))}
    assert list(specs) == ["feature_svc", "mlops_svc", "inference_svc-1", "inference_svc-2", "balancer", "gateway"]
    assert specs["inference_svc-2"].environment == {
        "QUANTMESH_INFERENCE_PORT": "30062",
        "QUANTMESH_INFERENCE_METRICS_PORT": "9112",
    }
    assert specs["inference_svc-2"].command == specs["inference_svc-1"].command
    assert [name for name, spec in specs.items() if spec.drain is not None] == ["balancer"]
    assert [spec.name for spec in services(addresses_of(MeshSettings()))] == [
        "feature_svc",
        "mlops_svc",
        "inference_svc",
        "gateway",
    ]


@pytest.mark.parametrize(("host", "listens", "dials"), [("0.0.0.0", "0.0.0.0", "127.0.0.1"), ("::", "::", "::1")])
def test_the_balancer_listens_where_it_is_told_and_dials_this_machine(host: str, listens: str, dials: str) -> None:
    made = balancer_of(MeshSettings(host=host, replicas=2))
    assert (made.host, made.port, made.metrics_port) == (listens, 50052, 9102)
    assert made.replicas == [(dials, 30061), (dials, 30062)]


def test_a_home_too_deep_for_a_socket_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"QUANTMESH_HOME: .* too long"):
        balancer_of(MeshSettings(home=tmp_path / ("x" * 90), replicas=2))


@pytest.mark.parametrize(("ours", "theirs"), [("", "demo"), ("demo", "")])
def test_a_port_that_our_own_other_mesh_has_is_told_so(tmp_path: Path, ours: str, theirs: str) -> None:
    home = tmp_path / theirs
    lock = HomeLock(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = Addresses("f:1", "i:2", "m:3", f"http://g:{port}", {"gateway": "http://g:4/metrics"})
        write_record(home, MeshRecord(77, addresses, "redis://h/0", str(home / "logs"), {}, {}))
        settings = MeshSettings(home=tmp_path / ours, **{**ANY_PORTS, "gateway_port": port})
        with pytest.raises(PortInUseError, match=rf"by the mesh of {home}: .*`kill 77`, or set QUANTMESH_GATE"):
            with_ports(settings)
        lock.release()
        with pytest.raises(PortInUseError, match="taken by another process"):
            with_ports(settings)


@pytest.mark.parametrize("make", [HomeLock, read_record, find_record])
def test_a_home_that_is_a_file_names_its_setting(tmp_path: Path, make: Callable[[Path], object]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"QUANTMESH_HOME: .*file cannot be used \(Not a directory\)"):
        make(tmp_path / "file")


def test_the_record_counts_only_while_its_mesh_lives(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    record = MeshRecord(
        pid=1,
        addresses=Addresses(
            "f:1",
            "i:2",
            "m:3",
            "http://g:4",
            {"gateway": "http://g:4/metrics"},
            {"inference_svc-1": "i:3"},
            "run/b.sock",
        ),
        redis_url="redis://h/0",
        logs_dir="logs",
        pids={"gateway": 5, "redis": None},
        restarts={"gateway": 0, "redis": 2},
    )
    assert read_record(home) is None
    lock = HomeLock(home)
    assert read_record(home) is None, "it is just starting"
    write_record(home, record)
    assert read_record(home) == record
    assert find_record(home) == find_record(tmp_path) == record, "it is found from the folder above too"
    assert (home / "run" / "mesh.json").stat().st_mode & 0o077 == 0, "the URL may hold a password"
    with pytest.raises(BlockingIOError):
        HomeLock(home)
    lock.release()
    assert read_record(home) is None, "a dead mesh left it behind"
    HomeLock(home).release()
    remove_record(home)
    remove_record(home)
