"""The README's examples, run as they are written; only the default ports are replaced by the test mesh's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.us_equities.job import Report
from tests.mesh import RunningMesh

README = Path(__file__).parents[3] / "README.md"
CALLS = README.read_text().split("## Call it")[1].split("## What it promises")[0]
BLOCKS = [
    pytest.param(language, text, id=re.sub(r"\W+", "-", text.strip().splitlines()[0])[:40] + f"-{number}")
    for number, (language, text) in enumerate(re.findall(r"^```(sh|python)\n(.*?)^```$", CALLS, re.M | re.S))
]
_BIN = str(Path(sys.executable).parent)


def run(mesh: RunningMesh, language: str, text: str) -> subprocess.CompletedProcess[str]:
    addresses = mesh.addresses
    for default, actual in (
        ("localhost:8000", addresses.gateway.removeprefix("http://")),
        ("localhost:50051", addresses.feature),
        ("localhost:50052", addresses.inference),
        ("localhost:50053", addresses.mlops),
    ):
        text = text.replace(default, actual)
    command = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
    environment = {
        **mesh.environment,
        "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
        "QUANTMESH_REDIS_URL": mesh.redis_url,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_examples_are_found() -> None:
    assert len(BLOCKS) >= 14


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_example_runs(mesh: RunningMesh, replayed: Report, language: str, text: str) -> None:
    done = run(mesh, language, text)
    watches = "WatchDeployments" in text  # an endless stream, which -max-time ends
    assert done.returncode == 0 or watches, done.stdout + done.stderr
    if "/inference/predict" in text:
        answer = json.loads(done.stdout)
        if "[1, 2, 3]" in text:
            assert answer["status"] == 400
            assert answer["errors"][0]["field"] == "features"
        else:
            documented = {"prediction", "model_name", "model_version", "latency_ms", "timestamp", "request_id"}
            assert documented <= answer.keys()
    elif "/inference/batch" in text:
        assert len(json.loads(done.stdout)["predictions"]) == 2
    elif "/inference/health" in text:
        assert json.loads(done.stdout)["status"] == "ok"
    elif "/Predict" in text:
        assert isinstance(json.loads(done.stdout)["prediction"], float)
    elif "Health/Check" in text:
        assert json.loads(done.stdout) == {"status": "SERVING"}
    elif watches:
        assert '"strategy": "us_equities"' in done.stdout
    elif "count_longs" in text:
        assert len(re.findall(r"partition \d: \d+ of \d+ signals are LONG", done.stdout)) >= 4
    elif "xrange" in text:
        assert re.search(r"^[A-Z]+ [+-]\d\.\d{5} DIRECTION_(LONG|SHORT|FLAT)$", done.stdout, re.M)
    elif "source .venv" in text or "dlq" in text:
        return  # the first sets up the terminal; nothing was given up on
    elif "GetOnlineFeaturesRequest" in text:
        assert "AAPL of 2019-01-17: 17 of 17 values are not OK" in done.stdout
        assert re.search(r"^AAPL [+-]\d\.\d{5} by [0-9a-f]{12}, generation \d+$", done.stdout, re.M)
    else:
        assert done.stdout.strip()


def test_the_documented_answer_has_the_fields_of_the_real_one(mesh: RunningMesh, replayed: Report) -> None:
    documented = json.loads(re.search(r"^```json\n(.*?)^```$", CALLS, re.M | re.S)[1])  # type: ignore[index]
    texts = [str(block.values[1]) for block in BLOCKS]
    (example,) = [text for text in texts if "/inference/predict" in text and "champion" in text]
    real = json.loads(run(mesh, "sh", example).stdout)
    assert documented.keys() == real.keys()
