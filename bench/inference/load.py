"""Runs the load generators and reads what they say."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bench.load
from bench.inference.targets import GrpcTarget, RestTarget
from bench.inference.workload import write_numbers, write_payloads
from bench.load.build import binary, tool

CONNECTIONS = {1: 1, 16: 4, 64: 8}
"""Over how many connections so many calls in flight are spread."""

SAMPLE = np.dtype(
    [("due_s", "f8"), ("latency_ms", "f4"), ("late_ms", "f4"), ("status", "i4"), ("wrong", "i4")], align=True
)
"""One call, as samples.h lays it down."""

_POST = Path(bench.load.__file__).with_name("post.lua")


@dataclass(frozen=True, slots=True)
class Result:
    """What one run saw. Latencies are of all calls that were counted, also of those that failed."""

    rate: float
    """Calls a second that were OK (and, for a load tool that looks no further, HTTP 2xx)."""
    p50: float
    p99: float
    p999: float
    worst: float
    offered: float = 0.0
    late_p99: float = 0.0
    """How late the generator itself was, milliseconds."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Calls that were not OK, by status; `WRONG` for answers that were."""

    @property
    def failures(self) -> int:
        """All of them."""
        return sum(self.failed.values())


def typical(results: Sequence[Result]) -> Result:
    """Medians of rounds; failures of all of them."""

    def mid(name: str) -> float:
        return float(median(getattr(result, name) for result in results))

    failed: dict[str, int] = {}
    for result in results:
        for status, count in result.failed.items():
            failed[status] = failed.get(status, 0) + count
    numbers = ("rate", "p50", "p99", "p999", "worst", "offered", "late_p99")
    return Result(**{name: mid(name) for name in numbers}, failed=failed)


class Loads:
    """The load generators, with the files that they read. Each raises UnavailableError where it cannot be had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: list[tuple[GrpcTarget, Path]] = []

    def _files_of(self, target: GrpcTarget) -> Path:
        """Where the requests are (`.requests`), and the right answers (`.answers`)."""
        for known, stem in self._known:
            if known is target:
                return stem
        stem = self._folder / f"grpc-{len(self._known)}"
        write_payloads(stem.with_suffix(".requests"), target.payloads)
        if target.check is not None:
            write_numbers(stem.with_suffix(".answers"), target.check.numbers)
        self._known.append((target, stem))
        return stem

    def _request_of(self, target: GrpcTarget) -> list[str]:
        requests = self._files_of(target).with_suffix(".requests")
        return ["--target", target.address, "--method", target.method, "--payloads", str(requests)]

    async def grpc(self, target: GrpcTarget, samples: Path | None = None, **options: object) -> Result:
        """Run `grpc_load` with options such as `mode="open", rate=500`."""
        command = [str(binary("grpc_load")), *self._request_of(target)]
        if target.check is not None:
            command += ["--expect", f"{target.check.place}:{self._files_of(target).with_suffix('.answers')}"]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        if samples is not None:
            command += ["--samples", str(samples)]
        return _result(json.loads(await _output(command)))

    async def python(self, target: GrpcTarget, seconds: float) -> Result:
        """One call in flight by Python's grpcio."""
        command = [sys.executable, "-m", "bench.load.python_client", *self._request_of(target)]
        return _result(json.loads(await _output([*command, "--seconds", str(seconds)])))

    async def closed(self, target: GrpcTarget, in_flight: int, seconds: float) -> Result:
        """So many calls in flight."""
        return await self.grpc(
            target, mode="closed", in_flight=in_flight, connections=CONNECTIONS.get(in_flight, 1), seconds=seconds
        )

    async def wrk(self, target: RestTarget, in_flight: int, seconds: int) -> Result:
        """So many connections, one request in flight on each. Counts what is not 2xx."""
        bodies = self._folder / "wrk.bodies"
        bodies.write_text("".join(json.dumps(body) + "\n" for body in target.bodies))
        command = [tool("wrk", "wrk"), "-t1", f"-c{in_flight}", f"-d{seconds}s", "-s", str(_POST), target.url, "--"]
        said = json.loads((await _output([*command, str(bodies)])).strip().splitlines()[-1])
        failed = {name: said[name] for name in ("not_2xx", "broken") if said[name]}
        rate = (said["requests"] - said["not_2xx"]) / said["seconds"]
        return Result(rate, said["p50_ms"], said["p99_ms"], said["p999_ms"], said["max_ms"], failed=failed)

    async def h2load(self, target: GrpcTarget, in_flight: int, seconds: int) -> Result:
        """The same calls by a lighter client, which sees HTTP statuses only, and tells mean and extremes of latency."""
        connections = CONNECTIONS.get(in_flight, 1)
        payload = target.payloads[0]
        body = self._folder / "h2load.body"
        body.write_bytes(b"\0" + len(payload).to_bytes(4, "big") + payload)
        command = [
            tool("h2load", "nghttp2-client"),
            f"-c{connections}",
            f"-m{in_flight // connections}",
            f"-D{seconds}",
        ]
        command += ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
        said = await _output([*command, f"http://{target.address}{target.method}"])
        rate = float(_find(r"finished in \S+ ([\d.]+) req/s", said))
        not_2xx = sum(int(_find(rf"(\d+) {kind}xx", said)) for kind in (3, 4, 5))
        mean = _milliseconds(_find(r"time for request:\s+\S+\s+\S+\s+(\S+)", said))
        worst = _milliseconds(_find(r"time for request:\s+\S+\s+(\S+)", said))
        return Result(rate, mean, 0.0, 0.0, worst, failed={"not_2xx": not_2xx} if not_2xx else {})


def _result(said: dict[str, Any]) -> Result:
    """What `grpc_load` prints."""
    failed = {name: part["count"] for name, part in said["statuses"].items() if name != "OK"}
    if said["wrong"]:
        failed["WRONG"] = said["wrong"]
    p50, p99, p999, most = (said["all"][name] for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
    return Result(said["ok_per_s"], p50, p99, p999, most, said["offered_per_s"], said["late"]["p99_ms"], failed)


def read_samples(path: Path) -> NDArray[np.void]:
    """What a run with `samples` wrote."""
    return np.fromfile(path, SAMPLE)


async def _output(command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {(err or out).decode(errors='replace')[-500:]}")
    return out.decode()


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"h2load said something else than expected:\n{text}")
    return found.group(1)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
