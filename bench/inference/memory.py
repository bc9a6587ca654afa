"""Ten million predictions and a hundred swaps: the memory of a replica is to stay flat."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.inference.fleet import FULL, Fleet
from bench.inference.load import CONNECTIONS, Result
from bench.inference.machine import Machine, rss_mib
from bench.inference.ours import Replica
from bench.inference.report import Section, rate
from bench.inference.targets import GrpcTarget
from bench.inference.workload import BATCH_ROWS

SWAPS = 100
_LEG_S, _LOOK_EVERY_S = 5, 0.25
_FLAT_MIB = 10.0
_BATCHES_IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class Amount:
    """Predictions, of them so many in calls of one row; the others are in batches."""

    total: int
    unary: int


@dataclass(slots=True)
class _Run:
    """How far it is."""

    predictions: int = 0
    swaps: int = 0
    failed: int = 0


async def memory(fleet: Fleet, amount: Amount) -> Section:
    """One line for each replica and kind of call."""
    title = f"a replica's resident memory over {amount.total:,} predictions and {SWAPS} swaps"
    section = Section("memory", title)
    section.columns = (
        "replica",
        "predictions",
        "a second",
        "swaps",
        "MiB: start",
        "in the 1st tenth",
        "later",
        "not OK",
    )
    use = Machine()
    parts = ((fleet.predict, 1, amount.unary), (fleet.batch, BATCH_ROWS, amount.total - amount.unary))
    for replica in fleet.replicas:
        for targets, rows, end in parts:
            target = fleet.of_replica(targets, replica)
            if target is not None and end > 0:
                await _part(fleet, section, replica, target, rows, end, round(SWAPS * end / amount.total))
    section.notes.append(
        "The most resident memory of all processes of the replica. Flat: less than "
        f"{_FLAT_MIB:g} MiB more after the first tenth of the run than within it."
    )
    fleet.report.finish(section, use)
    return section


async def _part(
    fleet: Fleet, section: Section, replica: Replica, target: GrpcTarget, rows: int, end: int, swaps: int
) -> None:
    run, looks = _Run(), [(0, rss_mib(replica.pid))]
    watching, started = asyncio.create_task(_watch(replica, run, looks)), time.monotonic()
    try:
        while run.predictions < end:
            leg = asyncio.create_task(_leg(fleet, target, rows))
            try:
                await _swap_until(replica, run, math.ceil(swaps * min(1.0, (run.predictions + 1) / end)))
            finally:
                result = await leg
            if not result.rate:
                raise RuntimeError(f"{target.server} answers nothing: {result.failed}")
            run.predictions += round(result.rate * _LEG_S) * rows
            run.failed += result.failures
        await _swap_until(replica, run, swaps)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    seconds = time.monotonic() - started
    tenth = max(1, len(looks) // 10)
    first, later = _most(looks[:tenth]), _most(looks[tenth:])
    what = f"{replica.name}, {rows} row{'s' * (rows > 1)} a call"
    per_s, memory_mib = rate(run.predictions / seconds), (f"{mib:.1f}" for mib in (looks[0][1], first, later))
    figures = {"rows": rows, "predictions": run.predictions, "swaps": run.swaps, "failed": run.failed, "rss_mib": looks}
    section.add(
        what,
        f"{run.predictions:,}",
        per_s,
        str(run.swaps),
        *memory_mib,
        f"{run.failed:,}",
        server=replica.name,
        **figures,
    )
    growth = later - first
    section.judge(f"{what}: growth", f"< {_FLAT_MIB:g} MiB", f"{growth:+.1f} MiB", growth < _FLAT_MIB)
    section.judge(f"{what}: calls that failed", "0", f"{run.failed:,}", not run.failed)


async def _leg(fleet: Fleet, target: GrpcTarget, rows: int) -> Result:
    in_flight = FULL if rows == 1 else _BATCHES_IN_FLIGHT
    connections = CONNECTIONS.get(in_flight, 1)
    return await fleet.loads.grpc(
        target, mode="closed", in_flight=in_flight, connections=connections, seconds=_LEG_S, warm_up=0
    )


async def _swap_until(replica: Replica, run: _Run, due: int) -> None:
    while run.swaps < due:
        await replica.swap()
        run.swaps += 1


async def _watch(replica: Replica, run: _Run, looks: list[tuple[int, float]]) -> None:
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        looks.append((run.predictions, rss_mib(replica.pid)))


def _most(looks: Sequence[tuple[int, float]]) -> float:
    return max((mib for _, mib in looks), default=0.0)
