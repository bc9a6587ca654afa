"""Predict, open loop: calls come at the times of a Poisson process, whatever the server does."""

from __future__ import annotations

from bench.inference.fleet import Fleet, interleaved
from bench.inference.load import Result
from bench.inference.machine import Machine
from bench.inference.report import Section, failures, ms, rate
from bench.inference.targets import GrpcTarget, Role
from bench.inference.unary import PEERS, lower_than_peers

ONE = 500
"""Calls a second of the nominal load."""

_P99_MS = {2 * ONE: 10.0, 5 * ONE: 25.0}
RATES = (ONE, *_P99_MS)
CONNECTIONS, DEADLINE_MS = 8, 2000


async def arrivals(fleet: Fleet) -> Section:
    """At 1, 2 and 5 times the nominal load."""
    seconds = fleet.plan.open_seconds
    section = Section("open", f"Predict, open loop (Poisson) of {seconds} s, deadline {DEADLINE_MS / 1000:g} s")
    section.columns = (
        "gRPC",
        "calls/s due",
        "OK/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "generator late p99",
        "not OK",
    )
    use = Machine()

    async def run(target: GrpcTarget, calls_per_s: int) -> Result:
        return await fleet.loads.grpc(
            target,
            mode="open",
            rate=calls_per_s,
            seconds=seconds,
            connections=CONNECTIONS,
            deadline_ms=DEADLINE_MS,
        )

    results = await interleaved(fleet, fleet.predict, RATES, run, section.missing)
    section.missing.update(fleet.missing.get("predict", {}))
    for due in RATES:
        for target in fleet.predict:
            result = results.get((target.server, due))
            if result is not None:
                latencies = map(ms, (result.p50, result.p99, result.p999, result.worst, result.late_p99))
                figures = {"server": target.server, "due_per_s": due, "result": result}
                section.add(target.server, rate(due), rate(result.rate), *latencies, failures(result.failed), **figures)
        section.gap()
    for target in fleet.predict:
        if target.role is not Role.OURS or (target.server, ONE) not in results:
            continue
        mine = {due: results[target.server, due] for due in RATES}
        for due, limit in _P99_MS.items():
            met = mine[due].p99 <= limit
            section.judge(f"{target.server}: p99 at {due // ONE} x {ONE}/s", f"<= {limit:g} ms", ms(mine[due].p99), met)
        theirs = {due: {peer: results[peer, due].p99 for peer in PEERS if (peer, due) in results} for due in RATES}
        p99 = {due: result.p99 for due, result in mine.items()}
        lower_than_peers(section, f"{target.server}: p99 at each rate", p99, theirs)
        failed = sum(result.failures for result in mine.values())
        section.judge(f"{target.server}: calls not OK", "0", f"{failed:,}", not failed)
    section.notes.append(
        "Latency counts from when a call was due, the lateness of the generator included; calls that failed count too."
    )
    fleet.report.finish(section, use)
    return section
