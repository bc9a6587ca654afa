"""End-to-end latency, open loop: from the moment a record was to be sent to its output in the hands of a reader.

A producer process posts at the times of a Poisson process, a processor process copies, and this process reads what
comes out. Latency counts from the intended time, so a stall delays, and counts for, all records that were due in it (no
coordinated omission). Lag is from a record's append to its commit, by the server's clock.
"""

from __future__ import annotations

import signal
from array import array
from time import monotonic_ns
from typing import Any

import numpy as np
from redis.asyncio import Redis

from bench.streams_report import Section
from bench.streams_workers import STAMP
from bench.streams_workload import CATALOG, SINK, Worker
from streams import keys

RATES = (10_000, 20_000)
WARM_UP_S = 1.0
LATENCY_P99_MS, LATENCY_RATE = 25.0, 10_000
LAG_P99_MS, LAG_RATE = 50.0, 20_000
_STUCK_S = 20.0


async def measure(url: str, seconds: float) -> Section:
    """Each rate in turn, with fresh processes."""
    table = Section(
        f"End to end, open loop: Poisson arrivals for {seconds:g} s after {WARM_UP_S:g} s of warm-up, catalog defaults"
    )
    async with Redis.from_url(url) as redis:
        for rate in RATES:
            await redis.flushall()
            latencies_ms, lags_ms, cores = await _run(redis, url, rate, seconds)
            for what, values, target, at in (
                ("latency", latencies_ms, LATENCY_P99_MS, LATENCY_RATE),
                ("lag", lags_ms, LAG_P99_MS, LAG_RATE),
            ):
                p50, p99, most = np.percentile(values, [50, 99, 100])
                judged = rate == at
                table.add(
                    f"{what} at {rate:,} records/s",
                    f"p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms",
                    f"p99 < {target:g} ms" if judged else "",
                    bool(p99 < target) if judged else None,
                )
            table.add("  of a core: producer, processor, Redis", " / ".join(f"{share:.0%}" for share in cores))
    return table


async def _run(redis: Redis, url: str, rate: int, seconds: float) -> tuple[array[float], array[float], list[float]]:
    records = round(rate * (WARM_UP_S + seconds))
    with Worker("copier", url) as processor, Worker("open_loop", url, rate=rate, records=records) as producer:
        processor.said()
        begins = producer.said()["begins"]
        before: Any = await redis.info("cpu")
        latencies_ms, lags_ms = await _read(redis, begins + round(WARM_UP_S * 1e9), records)
        after: Any = await redis.info("cpu")
        processor.process.send_signal(signal.SIGTERM)
        used = [producer.said()["cpu_s"], processor.said()["cpu_s"]]
    server = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    return latencies_ms, lags_ms, [cpu / (WARM_UP_S + seconds) for cpu in (*used, server)]


async def _read(redis: Redis, counted_from: int, records: int) -> tuple[array[float], array[float]]:
    """All outputs; (latencies, lags) of those that were due after the warm-up, ms."""
    positions = {keys.entries(SINK, p).encode(): b"0-0" for p in range(CATALOG.partitions)}
    latencies_ms, lags_ms = array("d"), array("d")
    seen, last_progress = 0, monotonic_ns()
    while seen < records:
        answer: Any = await redis.xread(positions, count=1000, block=500)  # type: ignore[arg-type]
        now = monotonic_ns()
        if answer:
            last_progress = now
        elif now - last_progress > _STUCK_S * 1e9:
            raise RuntimeError(f"stuck: {seen} of {records} came out")
        for key, entries in answer.items() if isinstance(answer, dict) else answer:
            entries = entries[0] if isinstance(answer, dict) else entries
            positions[key] = entries[-1][0]
            for entry_id, fields in entries:
                due, appended_ms = STAMP.unpack_from(fields[b"payload"])
                seen += due > 0
                if due >= counted_from:
                    latencies_ms.append((now - due) / 1e6)
                    lags_ms.append(int(entry_id.partition(b"-")[0]) - appended_ms)
    return latencies_ms, lags_ms
