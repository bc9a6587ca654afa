"""tritonclient, unmodified, in an environment and a process of its own (see client.py)."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
LOCK = HERE / "tritonclient.lock"
DATATYPES = {"f4": "FP32", "f8": "FP64", "i8": "INT64", "i4": "INT32"}


def interpreter() -> Path:
    """Python with the locked tritonclient; made once for a lock file, beside this one's packages."""
    folder = Path(sys.prefix) / f"tritonclient-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one run
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False)
            install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([sys.executable, *install, "--no-deps", "--require-hashes", "-r", str(LOCK)], check=True)
            (folder / "whole").touch()
    return python


@dataclass(frozen=True)
class Triton:
    """A client of one server. `protocol` is `grpc` or `http`; `none` asks the client about itself."""

    python: Path
    protocol: str
    url: str = ""

    async def __call__(self, *steps: dict[str, Any]) -> list[Any]:
        """Do steps in one process; returns what came of each."""
        process = await asyncio.create_subprocess_exec(
            self.python, HERE / "client.py", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        job = {"protocol": self.protocol, "url": self.url, "steps": steps}
        try:
            output, _ = await process.communicate(json.dumps(job).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        results: list[Any] = json.loads(output)
        return results


def tensor(values: NDArray[Any], datatype: str | None = None) -> dict[str, Any]:
    """An input of a step."""
    return {
        "hex": values.tobytes().hex(),
        "dtype": values.dtype.str,
        "shape": values.shape,
        "datatype": datatype or DATATYPES[values.dtype.str[1:]],
    }


def infer(inputs: dict[str, NDArray[Any]], **others: Any) -> dict[str, Any]:
    """A step that asks for one answer."""
    return {"do": "infer", "inputs": {name: tensor(values) for name, values in inputs.items()}, **others}


def read(method: str, *arguments: str) -> dict[str, Any]:
    """A step that calls a method of the client that takes texts."""
    return {"do": "read", "method": method, "arguments": arguments}


def outputs(result: Any) -> dict[str, NDArray[Any]]:
    """Outputs of an answer."""
    assert "error" not in result, result
    found = {}
    for name, each in result["outputs"].items():
        found[name] = (
            np.array(each["texts"], object).reshape(each["shape"])
            if "texts" in each
            else np.frombuffer(bytes.fromhex(each["hex"]), each["dtype"]).reshape(each["shape"])
        )
    return found


def same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether two arrays are equal in type, shape and every bit."""
    return (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
