"""REST predictions, closed loop, by wrk."""

from __future__ import annotations

from bench.inference import peers
from bench.inference.fleet import Fleet, interleaved
from bench.inference.load import Result
from bench.inference.machine import Machine
from bench.inference.report import Section, failures, ms, rate, times
from bench.inference.targets import RestTarget

LOADS = (1, 16, 64)

_AT, _RATIO = 16, 4.0
_PEERS = (peers.MLSERVER, peers.MLSERVER_INLINE, peers.FASTAPI)


async def rest(fleet: Fleet) -> Section:
    """POST of one row; what is not 2xx is counted."""
    section = Section("rest", f"REST predict, 1 row of 50 features, closed loop of {fleet.plan.seconds} s (wrk)")
    section.columns = ("REST", "in flight", "calls/s", "p50 ms", "p99 ms", "ours / it", "not 2xx")
    use = Machine()

    async def run(target: RestTarget, in_flight: int) -> Result:
        return await fleet.loads.wrk(target, in_flight, fleet.plan.seconds)

    results = await interleaved(fleet, fleet.rest, LOADS, run, section.missing)
    section.missing.update(fleet.missing.get("rest", {}))
    ours = [target.server for target in fleet.ours(fleet.rest)]
    for in_flight in LOADS:
        best = max((results[name, in_flight].rate for name in ours if (name, in_flight) in results), default=0.0)
        for target in fleet.rest:
            result = results.get((target.server, in_flight))
            if result is not None:
                ratio = "" if target.server in ours else times(best, result.rate)
                cells = (target.server, str(in_flight), rate(result.rate), ms(result.p50), ms(result.p99), ratio)
                figures = {"server": target.server, "in_flight": in_flight, "result": result}
                section.add(*cells, failures(result.failed), **figures)
        section.gap()
    for name in ours:
        mine = results.get((name, _AT))
        for peer in _PEERS:
            other = results.get((peer, _AT))
            what = f"{name}: calls/s at {_AT}, of {peer}'s"
            if mine is None or other is None:
                section.judge(what, f">= {_RATIO:g} x", "-", None)
            else:
                met = mine.rate >= _RATIO * other.rate
                section.judge(what, f">= {_RATIO:g} x", times(mine.rate, other.rate), met)
        measured = [results[name, load] for load in LOADS if (name, load) in results]
        failed = sum(result.failures for result in measured)
        section.judge(f"{name}: requests that failed", "0", f"{failed:,}", not failed if measured else None)
    fleet.report.finish(section, use)
    return section
