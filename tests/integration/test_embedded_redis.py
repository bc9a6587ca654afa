"""The embedded Redis server: comes up, keeps its data, says why it could not, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from runtime.embedded_redis import Answer, EmbeddedRedis, ask
from runtime.errors import PortInUseError, UnavailableError
from runtime.ports import free_port


def until(predicate: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not predicate():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """True while a process runs; a zombie, which its new parent has not collected yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_answers_on_loopback_and_ends_with_the_block(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "new" / "folder") as server:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.config_get("bind")["bind"] == "127.0.0.1"
            assert client.config_get("appendonly")["appendonly"] == "yes"
        process = server.process
        assert process is not None
    assert process.poll() == 0


def test_data_and_port_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        port = server.port
        with redis.Redis.from_url(server.url) as client:
            client.set("a", "1")
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("a") == b"1"
            client.set("b", "2")
            assert client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        server.start()
        assert server.port == port
        with redis.Redis.from_url(server.url) as client:
            assert (client.get("a"), client.get("b")) == (b"1", b"2")


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "one") as first:
        with pytest.raises(PortInUseError, match=str(first.port)):
            EmbeddedRedis(tmp_path / "two", first.port).start()
        assert first.process is not None
        assert ask(first.port, first.process.pid) is Answer.READY
        assert ask(first.port, first.process.pid + 1) is Answer.NONE, "another process's server is not ours"


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(UnavailableError, match="appendonlydir") as caught:
        EmbeddedRedis(tmp_path).start()
    assert caught.value.reason == "REDIS_START_FAILED"


def test_nothing_listens_on_a_free_port() -> None:
    assert ask(free_port(), 1) is Answer.NONE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ties a child to its parent")
def test_dies_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from runtime.embedded_redis import EmbeddedRedis\n"
        "s = EmbeddedRedis(pathlib.Path(sys.argv[1])); s.start(); print(s.process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        until(lambda: not alive(pid))
