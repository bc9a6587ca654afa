"""docs/streams.md, run as it is written: its files, programs and commands, in their order, on one real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from runtime.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "streams.md").read_text()
EXAMPLE = ROOT / "examples" / "streams_tutorial"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
PROGRAMS = [
    pytest.param(language, text, id=f"{number}-{language}-" + re.sub(r"\W+", "-", _title)[:40])
    for number, (language, text) in enumerate(BLOCKS)
    if language in ("python", "sh")
    for _title in [re.findall(r"^#+ (.*)$", PAGE[: PAGE.index(text)], re.M)[-1]]
]
BLOCKS_EXPECTED = 100
_BIN = str(Path(sys.executable).parent)


class Newcomer:
    """Someone who follows the page, in a folder of their own."""

    def __init__(self, folder: Path, server: EmbeddedRedis) -> None:
        self.folder = folder
        self.server = server
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("QUANTMESH_")},
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "QUANTMESH_REDIS_URL": server.url,
        }
        (folder / "streams.yaml").write_text(_only("yaml"))
        (folder / "blocks.py").write_text((EXAMPLE / "blocks.py").read_text())

    def run(self, language: str, text: str) -> str:
        if language == "sh":
            text = text.replace("redis://127.0.0.1:6379/0", self.server.url)
            command = ["bash", "-euo", "pipefail", "-c", text]
        else:
            program = self.folder / "program.py"
            program.write_text(text)
            command = [sys.executable, str(program)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def count(self, stream: str) -> int:
        with Redis.from_url(self.server.url) as redis:
            return sum(int(redis.xlen(f"{stream}:{{{partition}}}")) for partition in range(4))


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield Newcomer(tmp_path_factory.mktemp("tutorial"), server)


def test_the_page_shows_the_files_of_the_example() -> None:
    assert _only("yaml") == (EXAMPLE / "streams.yaml").read_text()
    assert ("python", (EXAMPLE / "blocks.py").read_text()) in BLOCKS
    assert len(PROGRAMS) >= 12


@pytest.mark.parametrize(("language", "text"), PROGRAMS)
def test_block_runs(newcomer: Newcomer, language: str, text: str) -> None:
    said = newcomer.run(language, text)
    if "tail blocks" in text:
        assert newcomer.count("trades") == 1000, "two runs, and each trade once"
        assert newcomer.count("blocks") == BLOCKS_EXPECTED
        assert '"trade_id"' in said or "trade_id" in said
    if "dlq drop" in text:
        assert "NO_NAME" in said
        assert newcomer.count("deadletter.reports") == 0
    if "repartition" in text:
        with Redis.from_url(newcomer.server.url) as redis:
            assert redis.get("mesh:partitions") == b"8"


def test_the_tutorial_killed_anywhere_and_run_again_has_the_same_blocks(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        newcomer = Newcomer(tmp_path, server)
        for delay_s in (0.7, 1.0, 1.3, 1.8, 2.4):
            process = subprocess.Popen([sys.executable, "blocks.py"], cwd=tmp_path, env=newcomer.environment)
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
        # A lease that the dead left must end before the last run has all partitions: it runs for two seconds.
        deadline = time.monotonic() + 30
        while newcomer.count("blocks") < BLOCKS_EXPECTED and time.monotonic() < deadline:
            newcomer.run("python", (tmp_path / "blocks.py").read_text())
        newcomer.run("python", (tmp_path / "blocks.py").read_text())
        assert newcomer.count("trades") == 1000
        assert newcomer.count("blocks") == BLOCKS_EXPECTED


def _only(language: str) -> str:
    (text,) = [text for kind, text in BLOCKS if kind == language]
    return str(text)
