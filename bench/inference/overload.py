"""Three times what a replica can do, open loop: what it admits stays fast, and the rest is refused at once."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.inference.arrivals import CONNECTIONS
from bench.inference.fleet import Fleet
from bench.inference.load import read_samples
from bench.inference.machine import Machine, rss_mib
from bench.inference.ours import Replica
from bench.inference.report import Section, failures, ms, rate, share
from bench.inference.targets import GrpcTarget, verify
from bench.inference.workload import slow
from inference_svc.settings import InferenceSettings

_TIMES, _NEARLY = 3.0, 0.9
_AT_ONCE_MS = 10.0
"""p99 of a refusal. A client that waits longer for a no would have been better off in the queue."""

_KEPT = 0.5
"""Share of its capacity that a replica must still answer, or it would protect itself by answering nothing."""

_LATE_AT_MOST_MS = 100.0
"""p99 of the generator's own lateness. One that is later measures the machine, and nothing is judged by it."""

_MAX_WAITING = 100_000
_OK, _RESOURCE_EXHAUSTED = 0, 8


def p99_target_ms() -> float:
    """The objective that the replicas run with: the environment's, or the default."""
    default: float = InferenceSettings.model_fields["p99_ms_target"].default
    return float(os.environ.get("INFER_P99_MS_TARGET") or default)


async def overload(fleet: Fleet) -> Section:
    """One column for each replica."""
    title = f"Predict, {_TIMES:g} times the capacity offered, open loop of {fleet.plan.overload_seconds} s"
    section = Section("overload", title)
    use = Machine()
    await fleet.each_replica(section, _both)
    section.notes.append(
        "The slow model leaves the generator the time that it needs; beside the other one, the generator takes what "
        "the replica needs, and falls behind: what it says of itself is to be read first."
    )
    section.notes.append(
        "Milliseconds from when a call was sent to its end; from due: with the lateness of the generator, "
        "which shares the cores."
    )
    fleet.report.finish(section, use)
    return section


async def _both(fleet: Fleet, section: Section, replica: Replica, target: GrpcTarget) -> dict[str, str]:
    found = await _overload(fleet, section, replica, target)
    work = slow(fleet.folder)
    await replica.promote(await replica.register(work.onnx.read_bytes()))
    try:
        named = replace(replica.predict(target.payloads, work), server=f"{replica.name}, slow model")
        await verify(named)
        more = await _overload(fleet, section, replica, named)
    finally:
        await replica.roll_back()
    return found | {f"slow model: {label}": said for label, said in more.items()}


async def _overload(fleet: Fleet, section: Section, replica: Replica, target: GrpcTarget) -> dict[str, str]:
    most, seconds, name = await fleet.capacity(target), fleet.plan.overload_seconds, target.server
    before, file = rss_mib(replica.pid), fleet.folder / "overload.samples"
    options: dict[str, Any] = {"rate": _TIMES * most, "seconds": seconds, "max_waiting": _MAX_WAITING}
    result = await fleet.loads.grpc(target, file, mode="open", connections=CONNECTIONS, **options)
    after, samples = rss_mib(replica.pid), read_samples(file)
    own = samples["latency_ms"] - samples["late_ms"]
    admitted, refused = own[samples["status"] == _OK], own[samples["status"] == _RESOURCE_EXHAUSTED]
    admitted_p99, refused_p99 = _percentile(admitted, 99), _percentile(refused, 99)
    others = {status: count for status, count in result.failed.items() if status != "RESOURCE_EXHAUSTED"}

    # A generator that cannot keep pace has taken the cores that the replica was to answer with.
    fair = result.late_p99 <= _LATE_AT_MOST_MS
    limit, said = p99_target_ms(), f"{ms(refused_p99)} ms" if len(refused) else "none refused"
    section.judge(
        f"{name}: p99 of what is admitted",
        f"<= {limit:g} ms",
        f"{ms(admitted_p99)} ms",
        admitted_p99 <= limit if fair else None,
    )
    met = refused_p99 <= _AT_ONCE_MS if len(refused) and fair else None
    section.judge(f"{name}: p99 of a refusal", f"<= {_AT_ONCE_MS:g} ms", said, met)
    section.judge(f"{name}: neither OK nor refused", "0", failures(others), not others if fair else None)
    kept = share(result.rate, most)
    section.judge(
        f"{name}: OK/s, of the capacity", f">= {_KEPT:.0%}", kept, result.rate >= _KEPT * most if fair else None
    )
    offered, enough = result.offered / most, _NEARLY * _TIMES
    section.judge(f"{name}: offered by the generator", f">= {enough:g} x", f"{offered:.1f} x", offered >= enough)
    section.figures.append(
        {
            "server": name,
            "capacity_per_s": most,
            "result": result,
            "admitted": _percentiles(admitted),
            "refused": _percentiles(refused),
            "rss_mib": [before, after],
        }
    )
    return {
        "capacity/s (closed loop)": rate(most),
        "offered/s": rate(result.offered),
        "OK/s": rate(result.rate),
        "refused/s (RESOURCE_EXHAUSTED)": rate(len(refused) / seconds),
        "OK: p50 / p99 / max ms": _three(admitted),
        "OK, from due: p50 / p99 / max ms": _three(samples["latency_ms"][samples["status"] == _OK]),
        "refused: p50 / p99 / max ms": _three(refused),
        "the generator: late by p99 ms": ms(result.late_p99),
        "the replica's memory, MiB": f"{before:.0f} to {after:.0f}",
        "neither OK nor refused": failures(others),
    }


def _percentile(values: NDArray[np.float32], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0


def _percentiles(values: NDArray[np.float32]) -> dict[str, float]:
    return {"count": len(values), **{f"p{each}_ms": _percentile(values, each) for each in (50, 99, 99.9, 100)}}


def _three(values: NDArray[np.float32]) -> str:
    return " / ".join(ms(_percentile(values, each)) for each in (50, 99, 100)) if len(values) else "-"
