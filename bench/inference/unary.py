"""Predict, one row a call, closed loop: rates and latencies beside the peers' and the floors'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.inference import peers
from bench.inference.fleet import FULL, Fleet, interleaved
from bench.inference.load import CONNECTIONS, Result
from bench.inference.machine import Machine
from bench.inference.report import Section, failures, ms, rate, share, times
from bench.inference.targets import GrpcTarget

LOADS = tuple(CONNECTIONS)
_RATIOS = {peers.MLSERVER: 10.0, peers.MLSERVER_INLINE: 10.0, peers.TRITON: 5.0}
_OF_ECHO, _ECHO_P50 = 0.45, 2.2
PEERS = tuple(_RATIOS)

Results = Mapping[tuple[str, int], Result]


async def unary(fleet: Fleet) -> Section:
    """By a gRPC client in C++ that counts statuses and looks at each answer."""
    section = Section("unary", f"Predict, 1 row of 50 features, closed loop of {fleet.plan.seconds} s")
    section.columns = (
        "gRPC",
        "in flight",
        "calls/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "of the echo",
        "ours / it",
        "not OK",
    )
    use = Machine()

    async def run(target: GrpcTarget, in_flight: int) -> Result:
        return await fleet.loads.closed(target, in_flight, fleet.plan.seconds)

    results = await interleaved(fleet, fleet.predict, LOADS, run, section.missing)
    section.missing.update(fleet.missing.get("predict", {}))
    names = [target.server for target in fleet.predict]
    ours = [target.server for target in fleet.ours(fleet.predict)]
    for in_flight in LOADS:
        for name in names:
            if (name, in_flight) in results:
                _line(section, results, name, in_flight, ours)
        section.gap()
    for name in ours:
        if (name, FULL) in results:
            _judge(section, results, name)
    fleet.report.finish(section, use)
    return section


def _line(section: Section, results: Results, name: str, in_flight: int, ours: list[str]) -> None:
    result = results[name, in_flight]
    echo = results.get((peers.ECHO, in_flight))
    best = max((results[each, in_flight].rate for each in ours if (each, in_flight) in results), default=0.0)
    section.add(
        name,
        str(in_flight),
        rate(result.rate),
        ms(result.p50),
        ms(result.p99),
        ms(result.p999),
        share(result.rate, echo.rate) if echo else "-",
        "" if name in ours else times(best, result.rate),
        failures(result.failed),
        server=name,
        in_flight=in_flight,
        result=result,
    )


def _judge(section: Section, results: Results, name: str) -> None:
    full = results[name, FULL]
    for peer, target in _RATIOS.items():
        other = results.get((peer, FULL))
        what = f"{name}: calls/s at {FULL}, of {peer}'s"
        if other is None:
            section.judge(what, f">= {target:g} x", "-", None)
        else:
            section.judge(what, f">= {target:g} x", times(full.rate, other.rate), full.rate >= target * other.rate)
    echo = results.get((peers.ECHO, FULL))
    what, target_text = f"{name}: calls/s at {FULL}, of the C++ echo's", f">= {_OF_ECHO:.0%}"
    section.judge(
        what,
        target_text,
        share(full.rate, echo.rate) if echo else "-",
        full.rate >= _OF_ECHO * echo.rate if echo else None,
    )
    _judge_one(section, results, name, "C++ client")
    p99 = {load: results[name, load].p99 for load in LOADS}
    lower_than_peers(section, f"{name}: p99 at each load", p99, _of_peers(results, LOADS, "p99"))
    failed = {load: results[name, load].failures for load in LOADS}
    section.judge(f"{name}: calls not OK", "0", f"{sum(failed.values()):,}", not any(failed.values()))


def _of_peers(results: Results, loads: Iterable[int], figure: str) -> dict[int, dict[str, float]]:
    return {
        load: {peer: getattr(results[peer, load], figure) for peer in PEERS if (peer, load) in results}
        for load in loads
    }


def lower_than_peers(
    section: Section,
    what: str,
    ours: Mapping[int, float],
    theirs: Mapping[int, Mapping[str, float]],
    or_equal: bool = False,
) -> None:
    """Judge milliseconds by load against the best peer's at the same load."""
    said, met = [], True
    for load, value in ours.items():
        if not theirs[load]:
            section.judge(what, "lower than each peer's", "-", None)
            return
        peer, best = min(theirs[load].items(), key=lambda item: item[1])
        said.append(f"{load}: {ms(value)} / {ms(best)} ({peer})")
        met = met and (value < best or (or_equal and value == best))
    section.judge(what, "<= each peer's" if or_equal else "< each peer's", "; ".join(said), met)


async def one(fleet: Fleet) -> Section:
    """One call in flight by a user's own client, Python's grpcio, which takes most of the time itself."""
    section = Section("one", f"Predict, one in flight by Python's grpcio client, {fleet.plan.seconds} s")
    section.columns = ("gRPC", "calls/s", "p50 ms", "p99 ms", "p50 of the echo's", "not OK")
    use = Machine()

    async def run(target: GrpcTarget, _: int) -> Result:
        return await fleet.loads.python(target, fleet.plan.seconds)

    results = await interleaved(fleet, fleet.predict, [1], run, section.missing)
    section.missing.update(fleet.missing.get("predict", {}))
    echo = results.get((peers.ECHO, 1))
    for target in fleet.predict:
        result = results.get((target.server, 1))
        if result is not None:
            cells = (target.server, rate(result.rate), ms(result.p50), ms(result.p99))
            of_echo = times(result.p50, echo.p50) if echo else "-"
            section.add(*cells, of_echo, failures(result.failed), server=target.server, result=result)
    for target in fleet.ours(fleet.predict):
        if (target.server, 1) in results:
            _judge_one(section, results, target.server, "Python client")
    fleet.report.finish(section, use)
    return section


def _judge_one(section: Section, results: Results, name: str, client: str) -> None:
    mine, echo = results[name, 1], results.get((peers.ECHO, 1))
    ratio, met = (times(mine.p50, echo.p50), mine.p50 <= _ECHO_P50 * echo.p50) if echo else ("-", None)
    section.judge(f"{name}, {client}: p50 at 1, of the C++ echo's", f"<= {_ECHO_P50:g} x", ratio, met)
    what = f"{name}, {client}: p50 at 1"
    lower_than_peers(section, what, {1: mine.p50}, _of_peers(results, [1], "p50"), or_equal=True)


async def http(fleet: Fleet) -> Section:
    """The same by h2load, a lighter client: closer to what the servers can do. It sees HTTP statuses only."""
    section = Section("http", f"Predict by h2load (sees HTTP 200 only: counts no grpc-status), {fleet.plan.seconds} s")
    section.columns = ("gRPC", "in flight", "calls/s", "mean ms", "max ms", "of the echo", "not 2xx")
    use = Machine()

    async def run(target: GrpcTarget, in_flight: int) -> Result:
        return await fleet.loads.h2load(target, in_flight, fleet.plan.seconds)

    results = await interleaved(fleet, fleet.predict, LOADS, run, section.missing)
    section.missing.update(fleet.missing.get("predict", {}))
    for in_flight in LOADS:
        echo = results.get((peers.ECHO, in_flight))
        for target in fleet.predict:
            result = results.get((target.server, in_flight))
            if result is not None:
                cells = (target.server, str(in_flight), rate(result.rate), ms(result.p50), ms(result.worst))
                of_echo = share(result.rate, echo.rate) if echo else "-"
                figures = {"server": target.server, "in_flight": in_flight, "result": result}
                section.add(*cells, of_echo, failures(result.failed), **figures)
        section.gap()
    for target in fleet.ours(fleet.predict):
        ours = results.get((target.server, FULL))
        for name, least in ((peers.ECHO, _OF_ECHO), *_RATIOS.items()):
            other = results.get((name, FULL))
            if ours is None or other is None:
                section.judge(f"{target.server}: calls/s at {FULL}, of {name}'s", f">= {least:g} x", "-", None)
                continue
            met = ours.rate >= least * other.rate
            section.judge(
                f"{target.server}: calls/s at {FULL}, of {name}'s", f">= {least:g} x", times(ours.rate, other.rate), met
            )
    fleet.report.finish(section, use)
    return section
