"""The supervisor with tiny children: order, restarts, back-off, a fault of configuration, a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from runtime.errors import ConfigurationError, PortInUseError, UnavailableError
from runtime.ports import free_port
from runtime.settings import MeshSettings
from runtime.supervisor import Addresses, ChildSpec, Mesh, MeshFailedError, MeshRunningError, read_record
from tests.redis_server import server
from tests.waiting import until

STEADY = """
import os, pathlib, signal, sys, time
name, state = sys.argv[1], pathlib.Path(sys.argv[2])
def end(*_):
    with open(state / "ends", "a") as ends: ends.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(state / (name + ".env")).write_text(repr(dict(os.environ)))
(state / (name + ".up")).write_text(str(os.getpid()))
print(name, "is up", flush=True)
while True: time.sleep(60)
"""
STUBBORN = STEADY.replace("signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
FAULTY = "import sys; print('setting X is wrong', flush=True); sys.exit(78)"
HINDERED = "import pathlib, sys\nif (pathlib.Path(sys.argv[2]) / 'taken').exists(): sys.exit(78)\n" + STEADY
CRASHING = "import sys; print('a bug', flush=True); sys.exit(1)"

PORTS: dict[str, Any] = {
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


def settings(tmp_path: Path, redis_url: str | None, **values: Any) -> MeshSettings:
    return MeshSettings(home=tmp_path / "home", redis_url=redis_url, **{**PORTS, "drain_grace_s": 1.0, **values})


def children(state: Path, **code: str) -> Callable[[Addresses], Sequence[ChildSpec]]:
    def ready(name: str) -> Callable[[], Any]:
        async def up() -> bool:
            return (state / f"{name}.up").exists()

        return up

    def specs(_: Addresses) -> Sequence[ChildSpec]:
        return [ChildSpec(name, [sys.executable, "-c", code[name], name, str(state)], ready(name)) for name in code]

    return specs


def alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_starts_all_says_where_and_stops_in_reverse(tmp_path: Path, redis_url: str) -> None:
    mesh = Mesh(settings(tmp_path, redis_url), children=children(tmp_path, one=STEADY, two=STEADY, three=STEADY))
    async with mesh:
        await mesh.ready(20)
        pids = {name: mesh.pid(name) for name in mesh.names}
        assert all(map(alive, pids.values()))
        record = read_record(tmp_path / "home")
        assert record is not None
        assert record.pid == os.getpid()
        assert (record.addresses, dict(record.pids), record.redis_url) == (mesh.addresses, pids, redis_url)
        assert (mesh.logs_dir / "two.log").read_text() == "two is up\n"
    assert not any(map(alive, pids.values()))
    assert (tmp_path / "ends").read_text().split() == ["three", "two", "one"]
    lines = [json.loads(line) for line in (mesh.logs_dir / "supervisor.log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["starting", "ready", "stopping", "stopped"]
    assert read_record(tmp_path / "home") is None
    assert not (tmp_path / "home" / "run" / "mesh.json").exists()


async def test_children_get_the_settings_not_the_environment(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTMESH_PARTITIONS", "99")
    mesh = Mesh(
        settings(tmp_path, redis_url, partitions=3),
        environment={"INFER_BATCH_SIZE": "8"},
        children=children(tmp_path, one=STEADY),
    )
    async with mesh:
        await mesh.ready(20)
        said = (tmp_path / "one.env").read_text()
        for name, value in {
            "QUANTMESH_PARTITIONS": "3",
            "QUANTMESH_HOME": str(tmp_path / "home"),
            "QUANTMESH_REDIS_URL": redis_url,
            "QUANTMESH_INFERENCE_PORT": mesh.addresses.inference.split(":")[1],
            "INFER_BATCH_SIZE": "8",
        }.items():
            assert f"'{name}': '{value}'" in said


async def test_a_killed_child_is_started_again(tmp_path: Path, redis_url: str) -> None:
    async with Mesh(settings(tmp_path, redis_url), children=children(tmp_path, one=STEADY, two=STEADY)) as mesh:
        await mesh.ready(20)
        first, other = mesh.pid("one"), mesh.pid("two")
        assert first is not None
        (tmp_path / "one.up").unlink()
        os.kill(first, signal.SIGKILL)
        await until(lambda: (tmp_path / "one.up").exists())
        assert mesh.pid("one") not in (None, first)
        assert (mesh.restarts("one"), mesh.restarts("two"), mesh.pid("two")) == (1, 0, other)
        record = read_record(tmp_path / "home")
        assert record is not None
        assert (record.pids["one"], record.restarts["one"]) == (mesh.pid("one"), 1)


async def test_a_crashing_child_is_started_again_ever_more_slowly(tmp_path: Path, redis_url: str) -> None:
    async with Mesh(settings(tmp_path, redis_url), children=children(tmp_path, one=CRASHING)) as mesh:
        started = time.monotonic()
        await until(lambda: mesh.restarts("one") >= 3)
        assert time.monotonic() - started > 0.1 + 0.2 + 0.4
        with pytest.raises(MeshFailedError, match=r"not ready after 0\.05 s: one:\na bug"):
            await mesh.ready(0.05)
    assert mesh.pid("one") is None


async def test_a_fault_of_configuration_ends_the_mesh_with_the_log(tmp_path: Path, redis_url: str) -> None:
    async with Mesh(settings(tmp_path, redis_url), children=children(tmp_path, one=STEADY, two=FAULTY)) as mesh:
        with pytest.raises(MeshFailedError, match="two cannot start:\nsetting X is wrong") as caught:
            await mesh.ready(20)
        assert caught.value.reason == "MESH_CONFIGURATION"
        with pytest.raises(MeshFailedError):
            await mesh.watch()
        await until(lambda: mesh.pid("one") is None)
        assert mesh.restarts("two") == 0


async def test_what_a_child_started_with_once_is_waited_for_when_it_is_gone(tmp_path: Path, redis_url: str) -> None:
    async with Mesh(settings(tmp_path, redis_url), children=children(tmp_path, one=HINDERED)) as mesh:
        await mesh.ready(20)
        first = mesh.pid("one")
        assert first is not None
        (tmp_path / "one.up").unlink()
        (tmp_path / "taken").touch()
        os.kill(first, signal.SIGKILL)
        await until(lambda: mesh.restarts("one") >= 3)
        (tmp_path / "taken").unlink()
        await mesh.ready(20)


async def test_a_child_that_does_not_end_is_killed(tmp_path: Path, redis_url: str) -> None:
    mesh = Mesh(settings(tmp_path, redis_url, drain_grace_s=0.0), children=children(tmp_path, one=STUBBORN))
    async with mesh:
        await mesh.ready(20)
        pid = mesh.pid("one")
    assert not alive(pid)


async def test_kill_does_not_wait(tmp_path: Path, redis_url: str) -> None:
    mesh = Mesh(settings(tmp_path, redis_url, drain_grace_s=60), children=children(tmp_path, one=STUBBORN))
    async with mesh:
        await mesh.ready(20)
        pid = mesh.pid("one")
        mesh.kill()
        await asyncio.wait_for(mesh.__aexit__(None, None, None), 5)
    assert not alive(pid)


async def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mesh = Mesh(
            settings(tmp_path, None, mlops_port=taken.getsockname()[1]), children=children(tmp_path, one=STEADY)
        )
        with pytest.raises(PortInUseError, match="QUANTMESH_MLOPS_PORT"):
            async with mesh:
                pass
    assert not (tmp_path / "home" / "redis").exists()
    assert not (tmp_path / "one.up").exists()


async def test_redis_that_does_not_answer_ends_it_once_before_anything_starts(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    mesh = Mesh(settings(tmp_path, url, redis_wait_s=0.3), children=children(tmp_path, one=STEADY))
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"did not answer within 0\.3 s"):
        async with mesh:
            pass
    assert time.monotonic() - started < 5
    assert not (tmp_path / "one.up").exists()
    log = [json.loads(line) for line in (tmp_path / "home" / "logs" / "supervisor.log").read_text().splitlines()]
    assert [line["event"].split(" ", 1)[0] for line in log] == ["starting", "Redis", "stopped"]


async def test_redis_that_refuses_the_password_ends_it_at_once(tmp_path: Path) -> None:
    with server(tmp_path / "redis", {"requirepass": "right"}) as running:
        for password in ("", ":wrong@"):
            url = f"redis://{password}{running.address}/0"
            mesh = Mesh(settings(tmp_path, url), children=children(tmp_path, one=STEADY))
            with pytest.raises(ConfigurationError, match=f"Redis at redis://{running.address}/0 refuses"):
                async with mesh:
                    pass


async def test_a_second_mesh_on_the_same_home_is_refused(tmp_path: Path, redis_url: str) -> None:
    specs = children(tmp_path, one=STEADY)
    async with Mesh(settings(tmp_path, redis_url), children=specs) as mesh:
        with pytest.raises(MeshRunningError, match=rf"process {os.getpid()}.*kill {os.getpid()}"):
            async with Mesh(settings(tmp_path, redis_url), children=specs):
                pass
        assert alive(mesh.pid("one"))
        assert read_record(tmp_path / "home") is not None


async def test_what_a_dead_mesh_left_behind_is_ignored(tmp_path: Path, redis_url: str) -> None:
    run = tmp_path / "home" / "run"
    run.mkdir(parents=True)
    (run / "mesh.lock").touch()
    (run / "mesh.json").write_text(json.dumps({"pid": os.getppid()}))
    assert read_record(tmp_path / "home") is None
    async with Mesh(settings(tmp_path, redis_url), children=children(tmp_path, one=STEADY)) as mesh:
        await mesh.ready(20)


async def test_the_embedded_redis_comes_back_with_its_data_and_port(tmp_path: Path) -> None:
    async with Mesh(settings(tmp_path, None), children=children(tmp_path, one=STEADY)) as mesh:
        await mesh.ready(20)
        assert mesh.names == ["redis", "one"]
        url, pid = mesh.redis_url, mesh.pid("redis")
        assert pid is not None
        with redis.Redis.from_url(url) as client:
            client.set("kept", "1")
            client.execute_command("WAITAOF", 1, 0, 5000)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: mesh.restarts("redis") == 1)
        assert mesh.redis_url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("kept") == b"1"
        pid = mesh.pid("redis")
    assert not alive(pid)


async def test_an_overlong_log_is_begun_anew(tmp_path: Path, redis_url: str) -> None:
    logs = tmp_path / "home" / "logs"
    logs.mkdir(parents=True)
    (logs / "one.log").write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    (logs / "two.log").write_bytes(b"kept\n")
    async with Mesh(settings(tmp_path, redis_url), children=children(tmp_path, one=STEADY, two=STEADY)) as mesh:
        await mesh.ready(20)
        assert (logs / "one.log").read_text() == "one is up\n"
        assert (logs / "two.log").read_text() == "kept\ntwo is up\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ties a child to its parent")
async def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib, sys
from runtime.settings import MeshSettings
from runtime.supervisor import ChildSpec, Mesh
async def ready(): return pathlib.Path({str(tmp_path / "one.up")!r}).exists()
async def main():
    spec = ChildSpec("one", [sys.executable, "-c", {STEADY!r}, "one", {str(tmp_path)!r}], ready)
    settings = MeshSettings(home=pathlib.Path({str(tmp_path / "home")!r}), redis_url=None, **{PORTS!r})
    async with Mesh(settings, children=lambda _: [spec]) as mesh:
        await mesh.ready(20)
        print(mesh.pid("one"), mesh.pid("redis"), flush=True)
        await mesh.watch()
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pids = [int(pid) for pid in (await process.stdout.readline()).split()]
    assert [alive(pid) for pid in pids] == [True, True]
    process.kill()
    await process.communicate()
    await until(lambda: not any(map(alive, pids)))
    assert read_record(tmp_path / "home") is None
