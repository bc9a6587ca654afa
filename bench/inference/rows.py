"""Many rows: BatchPredict and StreamPredict beside ONNX Runtime in a bare loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from statistics import median

from bench.inference import ours
from bench.inference.fleet import Fleet, interleaved, offer_batches
from bench.inference.load import Result
from bench.inference.machine import Machine
from bench.inference.report import Section, failures, ms, rate, share
from bench.inference.targets import GrpcTarget, Role
from bench.inference.workload import BATCH_ROWS, Workload, session

_OF_BARE = 0.8
_IN_FLIGHT = 4
_CALL_ROWS = 2 * BATCH_ROWS
"""INFER_BATCH_SIZE of a replica that is there for batches: the default keeps calls short, for single rows."""

_SET_UP = f"calls of {_CALL_ROWS}"
_WINDOWS = {"packed batches": 4, "single rows": 512}
"""Messages unanswered on a stream."""


def _bare(work: Workload, seconds: float) -> float:
    """Rows a second of ONNX Runtime alone: one thread, batches of the same size, float32 as it takes them."""
    model = session(work.onnx)
    name, calls = model.get_inputs()[0].name, 0
    model.run(None, {name: work.batches[0]})
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        model.run(None, {name: work.batches[calls % len(work.batches)]})
        calls += 1
    return calls * BATCH_ROWS / (time.perf_counter() - started)


async def rows(fleet: Fleet) -> Section:
    """Rows a second, and of the bare loop's: by the replicas as they come, and by some that are set up for batches."""
    async with AsyncExitStack() as stack:
        for replica in fleet.replicas:
            home = fleet.folder / f"home-{replica.listener}-rows"
            await offer_batches(fleet, await ours.start(stack, home, replica.listener, fleet.workload, _CALL_ROWS))
        try:
            return await _rows(fleet)
        finally:
            fleet.batch = [target for target in fleet.batch if _SET_UP not in target.server]
            fleet.stream = [target for target in fleet.stream if _SET_UP not in target.server]


async def _rows(fleet: Fleet) -> Section:
    section = Section("rows", f"many rows, closed loop of {fleet.plan.seconds} s; batches of {BATCH_ROWS} rows")
    section.columns = ("gRPC", "calls or messages/s", "rows/s", "of the bare loop", "p50 ms", "p99 ms", "not OK")
    use = Machine()
    bare: list[float] = []
    targets = [*fleet.batch, *fleet.stream]

    async def run(target: GrpcTarget, in_flight: int) -> Result:
        if target is targets[0]:  # once a round
            bare.append(await asyncio.to_thread(_bare, fleet.workload, fleet.plan.seconds / 2))
        if not target.streams:
            return await fleet.loads.closed(target, in_flight, fleet.plan.seconds)
        window = next(size for what, size in _WINDOWS.items() if target.server.endswith(what))
        return await fleet.loads.grpc(
            target, mode="stream", in_flight=window, connections=1, seconds=fleet.plan.seconds
        )

    results = await interleaved(fleet, targets, [_IN_FLIGHT], run, section.missing)
    section.missing.update(fleet.missing.get("batch", {}) | fleet.missing.get("stream", {}))
    floor = median(bare) if bare else 0.0
    section.add("ONNX Runtime in a bare loop", "", rate(floor), "100%", "", "", "", server="bare", rows_per_s=floor)
    for target in targets:
        result = results.get((target.server, _IN_FLIGHT))
        if result is None:
            continue
        each = len(target.answers[0])
        what = f"{target.server}: {target.method.rpartition('/')[2]} of {each}"
        cells = (rate(result.rate), rate(result.rate * each), share(result.rate * each, floor))
        section.add(
            what, *cells, ms(result.p50), ms(result.p99), failures(result.failed), server=target.server, result=result
        )
        if target.role is Role.OURS and each == BATCH_ROWS and _SET_UP in target.server:
            met = result.rate * each >= _OF_BARE * floor and not result.failures
            section.judge(f"{what}: rows/s of the bare loop's, all OK", f">= {_OF_BARE:.0%}", cells[2], met)
    if not fleet.ours(fleet.stream):
        section.judge("StreamPredict: rows/s of the bare loop's", f">= {_OF_BARE:.0%}", "-", None)
    section.notes.append(
        f"{_IN_FLIGHT} calls in flight; one stream with {' or '.join(f'{n} {what}' for what, n in _WINDOWS.items())} "
        "unanswered. Client and server share the cores; the bare loop has one to itself."
    )
    fleet.report.finish(section, use)
    return section
