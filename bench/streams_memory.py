"""Memory: resident set of a producer and of a processor while records go through both."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from redis.asyncio import Redis

from bench.streams_report import Section
from bench.streams_workload import PAYLOAD_BYTES, Worker

LIMIT_MIB = 150.0
GROWTH_MIB = 10.0
"""What may come on top after the first tenth of the records."""

_LOOK_S = 0.1


async def measure(url: str, records: int) -> Section:
    """Both at once; the producer is held back when the processor falls behind."""
    async with Redis.from_url(url) as redis:
        await redis.flushall()
    with (
        Worker("endless_processor", url, records=records) as processor,
        Worker("endless_producer", url, records=records) as producer,
    ):
        workers = {"producer": producer, "processor": processor}
        for worker in workers.values():
            worker.said()
        began = time.monotonic()
        done = {name: asyncio.create_task(asyncio.to_thread(worker.said)) for name, worker in workers.items()}
        samples: dict[str, list[float]] = {name: [] for name in workers}
        while not all(task.done() for task in done.values()):
            for name, worker in workers.items():
                if not done[name].done():
                    samples[name].append(_mib(worker.process.pid, "VmRSS"))
            await asyncio.sleep(_LOOK_S)
        for task in done.values():
            task.result()
        seconds = time.monotonic() - began
        peaks = {name: _mib(worker.process.pid, "VmHWM") for name, worker in workers.items()}
    table = Section(
        f"Memory: {records:,} records of {PAYLOAD_BYTES} bytes through post and processor in {seconds:.0f} s"
    )
    for name, each in samples.items():
        tenth = max(each[: len(each) // 10 + 1])
        growth = max(each) - tenth
        table.add(
            f"{name}: most resident memory",
            f"{peaks[name]:.0f} MiB",
            f"< {LIMIT_MIB:g} MiB",
            peaks[name] < LIMIT_MIB,
        )
        table.add(
            f"{name}: growth after the first tenth",
            f"{growth:.1f} MiB",
            f"< {GROWTH_MIB:g} MiB (flat)",
            growth < GROWTH_MIB,
        )
    return table


def _mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has ended")
