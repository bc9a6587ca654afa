"""What a challenger costs the champion: p50 and p99 without one, and beside one that is equal, slow, or crashes.

In each round every state takes its turn at every load, in a rotating order; a ratio is of the same round.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bench.inference.arrivals import CONNECTIONS, DEADLINE_MS, ONE
from bench.inference.fleet import Fleet
from bench.inference.load import Result, typical
from bench.inference.machine import Machine, tree
from bench.inference.ours import Replica
from bench.inference.report import Section, failures, ms, rate, share, times
from bench.inference.targets import GrpcTarget
from bench.inference.workload import FEATURES

_NONE, _EQUAL, _SLOW, _CRASHING = "none", "equal", "slow", "crashing"
_STATES = (_NONE, _EQUAL, _SLOW, _CRASHING)
_LOADS = (f"{ONE}/s open loop", "16 in flight")
_RATIO = 1.10

_KILL_EVERY_S = 0.5
_SETTLE_S = 0.5
_WIDE, _LAYERS = 2048, 3


@dataclass(slots=True)
class _Seen:
    """The rounds of one state at one load."""

    results: list[Result]
    calls: float = 0.0
    scored: int = 0


async def shadow(fleet: Fleet) -> Section:
    """One group of lines for each replica."""
    plan = fleet.plan
    title = f"Predict beside a challenger, {plan.rounds} rounds of {plan.open_seconds} s"
    section = Section("shadow", title)
    section.columns = (
        "gRPC",
        "load",
        "challenger",
        "calls/s",
        "p50 ms",
        "p99 ms",
        "p50, of none",
        "p99, of none",
        "rows scored / calls",
        "not OK",
    )
    section.missing.update(fleet.missing.get("predict", {}))
    use = Machine()
    for replica in fleet.replicas:
        target = fleet.of_replica(fleet.predict, replica)
        if target is not None:
            try:
                _tell(section, replica, await _measure(fleet, replica, target))
            except RuntimeError as error:
                section.missing[replica.name] = str(error)
    section.notes.append(
        f"slow: {_LAYERS} layers of {_WIDE} x {_WIDE}, which wants a core and the memory's bandwidth for itself; "
        f"crashing: the shadow process is killed (SIGKILL) every {_KILL_EVERY_S:g} s, or as soon as it is back."
    )
    section.notes.append(
        "Ratios are medians of the rounds' ratios. Rows of the warm-up are scored too, and not counted as calls."
    )
    fleet.report.finish(section, use)
    return section


async def _measure(fleet: Fleet, replica: Replica, target: GrpcTarget) -> dict[tuple[str, str], _Seen]:
    versions = {_EQUAL: replica.versions[1], _SLOW: await replica.register(_slow()), _CRASHING: replica.versions[1]}
    seen: dict[tuple[str, str], _Seen] = {}
    for number in range(fleet.plan.rounds):
        for load in _LOADS:
            turn = number % len(_STATES)
            for state in _STATES[turn:] + _STATES[:turn]:
                print(f"  shadow: {replica.name}, round {number + 1}: {load}, {state}", file=sys.stderr)
                found = seen.setdefault((load, state), _Seen([]))
                async with _challenged(replica, state, versions, found):
                    found.results.append(await _load(fleet, target, load))
                    found.calls += found.results[-1].rate * fleet.plan.open_seconds
    return seen


@asynccontextmanager
async def _challenged(replica: Replica, state: str, versions: dict[str, str], seen: _Seen) -> AsyncIterator[None]:
    if state == _NONE:
        await asyncio.sleep(_SETTLE_S)
        yield
        return
    await replica.start_shadow(versions[state])
    await asyncio.sleep(_SETTLE_S)
    killing = asyncio.create_task(_keep_killing(replica.pid)) if state == _CRASHING else None
    scored = await replica.shadow_rows()
    try:
        yield
    finally:
        if killing is not None:
            killing.cancel()
        await asyncio.sleep(2 * _SETTLE_S)  # until the replica has reported what it counted
        seen.scored += await replica.shadow_rows() - scored
        await replica.stop_shadow()


async def _load(fleet: Fleet, target: GrpcTarget, load: str) -> Result:
    seconds = fleet.plan.open_seconds
    if load == _LOADS[0]:
        options: dict[str, Any] = {"mode": "open", "rate": ONE, "connections": CONNECTIONS, "deadline_ms": DEADLINE_MS}
        return await fleet.loads.grpc(target, seconds=seconds, **options)
    return await fleet.loads.closed(target, 16, seconds)


async def _keep_killing(root: int) -> None:
    while True:
        for pid in tree(root):
            if _is_shadow(pid):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_KILL_EVERY_S)


def _is_shadow(pid: int) -> bool:
    try:
        return b"inference_svc.shadow" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _slow() -> bytes:
    """A model of the workload's columns, some milliseconds a row."""
    random = np.random.default_rng(3)
    shapes = [(FEATURES, _WIDE), *[(_WIDE, _WIDE)] * _LAYERS, (_WIDE, 1)]
    nodes, weights, before = [], [], "rows"
    for number, shape in enumerate(shapes):
        weights.append(
            numpy_helper.from_array(
                (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32), f"weights{number}"
            )
        )
        nodes.append(helper.make_node("MatMul", [before, f"weights{number}"], [f"product{number}"]))
        before = f"product{number}"
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info(before, TensorProto.FLOAT, [None, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _tell(section: Section, replica: Replica, seen: dict[tuple[str, str], _Seen]) -> None:
    for load in _LOADS:
        none = seen[load, _NONE].results
        for state in _STATES:
            found = seen[load, state]
            result = typical(found.results)
            p50, p99 = (_ratio(found.results, none, name) for name in ("p50", "p99"))
            section.add(
                replica.name,
                load,
                state,
                rate(result.rate),
                ms(result.p50),
                ms(result.p99),
                times(p50, 1.0),
                times(p99, 1.0),
                "-" if state == _NONE else share(found.scored, found.calls),
                failures(result.failed),
                server=replica.name,
                load=load,
                challenger=state,
                results=found.results,
                p50_ratio=p50,
                p99_ratio=p99,
                rows_scored=found.scored,
            )
            if state != _NONE:
                what = f"{replica.name}, {load}: p99 beside a challenger ({state}), of none"
                section.judge(what, f"<= {_RATIO:.2f} x", times(p99, 1.0), p99 <= _RATIO)
        section.gap()
    failed = sum(result.failures for found in seen.values() for result in found.results)
    section.judge(f"{replica.name}: calls not OK", "0", f"{failed:,}", not failed)


def _ratio(results: list[Result], others: list[Result], name: str) -> float:
    """Median of the rounds' ratios."""
    return float(median(getattr(one, name) / getattr(other, name) for one, other in zip(results, others, strict=True)))
