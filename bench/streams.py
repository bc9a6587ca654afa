"""What the streaming fabric does on this machine, against its targets: `python -m bench.streams`.

One run, one server of its own. Clients and server share the machine, so of the rates read the ratios; the load of the
machine is in every title. docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from bench import streams_latency, streams_members, streams_memory, streams_peer, streams_report, streams_throughput
from runtime.embedded_redis import EmbeddedRedis, server_binary

SECTIONS = ("throughput", "latency", "members", "memory")


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    quick, only = arguments.quick, arguments.only
    print(f"{streams_report.machine()}; server {Path(server_binary()).name}", flush=True)
    began = time.monotonic()
    if "throughput" in only:
        peer = streams_peer.environment()
        records, rounds = (20_000, 3) if quick else (100_000, 5)
        _section(lambda url: streams_throughput.measure(url, records, rounds, peer))
    if "latency" in only:
        _section(lambda url: _one(streams_latency.measure(url, 3 if quick else 10)))
    if "members" in only:
        _section(lambda url: _one(streams_members.measure(url, 1 if quick else 7)))
    if "memory" in only:
        count = 10_000_000 if arguments.memory else 200_000 if quick else 1_000_000
        _section(lambda url: _one(streams_memory.measure(url, count)))
    print(f"measured in {time.monotonic() - began:.0f} s")


def _section(measure: Callable[[str], Awaitable[list[streams_report.Section]]]) -> None:
    """Measure with a server of its own, and print."""

    async def measured(url: str) -> list[streams_report.Section]:
        return await measure(url)

    machine = streams_report.Machine()
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis(Path(directory)) as server:
        sections = uvloop.run(measured(server.url))
    others = machine.others()
    for section in sections:
        section.print(others)


async def _one(section: Coroutine[Any, Any, streams_report.Section]) -> list[streams_report.Section]:
    return [await section]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, in less than a minute")
    parser.add_argument("--memory", action="store_true", help="memory alone, over 10 million records")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="these sections")
    arguments = parser.parse_args()
    if arguments.memory:
        arguments.only = ("memory",)
    return arguments


if __name__ == "__main__":
    main()
