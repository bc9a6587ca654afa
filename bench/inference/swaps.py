"""Promotions and rollbacks in a loop, under a third of what a replica can do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.inference.arrivals import CONNECTIONS, DEADLINE_MS
from bench.inference.fleet import Fleet
from bench.inference.load import read_samples
from bench.inference.machine import Machine
from bench.inference.ours import Replica
from bench.inference.report import Section, failures, ms, rate, times
from bench.inference.targets import GrpcTarget

_LOAD = 1 / 3
_BEFORE_S, _EVERY_S, _WARM_UP_S, _SPARE_S = 5.0, 1.0, 1.0, 5.0
_AFTER_S = 0.25
"""A swap is felt until so long after it was answered."""

_BIN_S = 0.1
_RATIO = 2.0


async def swaps(fleet: Fleet) -> Section:
    """One column for each replica."""
    title = f"{fleet.plan.swaps} swaps, one a second, under {_LOAD:.0%} of the capacity (open loop)"
    section = Section("swap", title)
    use = Machine()
    await fleet.each_replica(section, _swaps)
    section.notes.append(
        "Both versions predict the same, and each answer is looked at. During: calls due from the request "
        f"for a swap to {_AFTER_S:g} s after its answer."
    )
    fleet.report.finish(section, use)
    return section


async def _swaps(fleet: Fleet, section: Section, replica: Replica, target: GrpcTarget) -> dict[str, str]:
    calls_per_s = _LOAD * await fleet.capacity(target)
    file = fleet.folder / "swaps.samples"
    options: dict[str, Any] = {
        "rate": calls_per_s,
        "seconds": _BEFORE_S + fleet.plan.swaps * _EVERY_S + _SPARE_S,
        "warm_up": _WARM_UP_S,
        "deadline_ms": DEADLINE_MS,
    }
    running = asyncio.create_task(fleet.loads.grpc(target, file, mode="open", connections=CONNECTIONS, **options))
    windows, took = [], []
    try:
        await asyncio.sleep(_WARM_UP_S + _BEFORE_S)
        for _ in range(fleet.plan.swaps):
            began = time.monotonic()
            took.append(await replica.swap())
            windows.append((began, time.monotonic() + _AFTER_S))
            await asyncio.sleep(max(0.0, _EVERY_S - (time.monotonic() - began)))
    finally:
        result = await running
    samples = read_samples(file)
    due, latency = samples["due_s"], samples["latency_ms"]
    before = _figures(latency[due < windows[0][0]])
    during = _figures(latency[np.any([(due >= start) & (due < end) for start, end in windows], axis=0)])
    bins = series(samples)

    ratio = times(during["p99_ms"], before["p99_ms"])
    section.judge(f"{replica.name}: calls that failed", "0", failures(result.failed), not result.failures)
    met = during["p99_ms"] <= _RATIO * before["p99_ms"]
    section.judge(f"{replica.name}: p99 during a swap, of before", f"<= {_RATIO:g} x", ratio, met)
    figures = {"server": replica.name, "result": result, "before": before, "during": during, "swap_ms": took}
    section.figures.append({**figures, "series": bins})
    return {
        "calls/s": rate(calls_per_s),
        "before: p50 / p99 / max ms": _three(before),
        "during a swap: p50 / p99 / max ms": _three(during),
        "p99 during, of before": ratio,
        "the worst 100 ms: p99 ms": ms(max(each["p99_ms"] for each in bins)),
        "until the other version served: median / max ms": f"{ms(float(np.median(took)))} / {ms(max(took))}",
        "not OK": failures(result.failed),
    }


def _figures(latency: NDArray[np.float32]) -> dict[str, float]:
    p50, p99, most = np.percentile(latency, [50, 99, 100])
    return {"calls": len(latency), "p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(most)}


def _three(figures: dict[str, float]) -> str:
    return " / ".join(ms(figures[name]) for name in ("p50_ms", "p99_ms", "max_ms"))


def series(samples: NDArray[np.void]) -> list[dict[str, Any]]:
    """Calls by the tenth of a second in which they were due."""
    first = samples["due_s"].min()
    place = ((samples["due_s"] - first) / _BIN_S).astype(int)
    made = []
    for number in range(place.max() + 1):
        part = samples[place == number]
        if len(part):
            p50, p99 = np.percentile(part["latency_ms"], [50, 99])
            failed = int((part["status"] != 0).sum())
            at = round(number * _BIN_S, 1)
            made.append({"at_s": at, "calls": len(part), "not_ok": failed, "p50_ms": float(p50), "p99_ms": float(p99)})
    return made
