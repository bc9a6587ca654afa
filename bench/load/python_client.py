"""One call in flight by the client that most users have, Python's grpcio: `python -m bench.load.python_client`.

Most of such a call is the client's own time, so the ratio of two servers is the one that a user of Python sees. Prints
JSON in the form of `grpc_load`.
"""

from __future__ import annotations

import argparse
import json
import struct
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import numpy as np


def _payloads(path: Path) -> Iterator[bytes]:
    left = path.read_bytes()
    while left:
        (length,) = struct.unpack_from("=I", left)
        yield left[4 : 4 + length]
        left = left[4 + length :]


def _latency(milliseconds: list[float]) -> dict[str, float]:
    p50, p90, p99, p999, most = np.percentile(milliseconds, [50, 90, 99, 99.9, 100])
    return {"count": len(milliseconds), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "p999_ms": p999, "max_ms": most}


def main() -> None:
    """Call for so many seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--payloads", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warm-up", type=float, default=0.5)
    options = parser.parse_args()
    by_status: dict[str, list[float]] = {}
    with grpc.insecure_channel(options.target) as channel:
        call: Any = channel.unary_unary(options.method)
        begin = time.perf_counter() + options.warm_up
        for payload in cycle(list(_payloads(options.payloads))):
            started = time.perf_counter()
            if started >= begin + options.seconds:
                break
            status = "OK"
            try:
                call(payload, timeout=10)
            except grpc.RpcError as error:
                status = error.code().name
            if started >= begin:
                by_status.setdefault(status, []).append((time.perf_counter() - started) * 1000)
    every = [each for latencies in by_status.values() for each in latencies]
    said = {
        "offered_per_s": len(every) / options.seconds,
        "ok_per_s": len(by_status.get("OK", [])) / options.seconds,
        "wrong": 0,
        "all": _latency(every),
        "late": {"p99_ms": 0.0},
        "statuses": {status: _latency(latencies) for status, latencies in by_status.items()},
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
