"""Everything that is measured, up for the length of a run. What cannot be had is told, with the reason."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from bench.inference import ours, peers
from bench.inference.load import CONNECTIONS, Loads, Result, typical
from bench.inference.machine import Machine
from bench.inference.ours import Replica
from bench.inference.report import Report, Section
from bench.inference.targets import GrpcTarget, RestTarget, Role, WrongAnswerError, verify
from bench.inference.workload import Workload
from bench.load.build import UnavailableError

Target = TypeVar("Target", GrpcTarget, RestTarget)
Load = TypeVar("Load")

FULL = max(CONNECTIONS)
"""Calls in flight of a busy server."""

_REST_S = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    seconds: int = 2
    open_seconds: int = 4
    overload_seconds: int = 10
    swaps: int = 10


QUICK = Plan(rounds=1, seconds=1, open_seconds=2, overload_seconds=4, swaps=3)


@dataclass(slots=True)
class Fleet:
    """The servers that run, by what can be asked of them."""

    plan: Plan
    folder: Path
    workload: Workload
    loads: Loads
    report: Report
    replicas: list[Replica] = field(default_factory=list)
    predict: list[GrpcTarget] = field(default_factory=list)
    batch: list[GrpcTarget] = field(default_factory=list)
    stream: list[GrpcTarget] = field(default_factory=list)
    rest: list[RestTarget] = field(default_factory=list)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    """Why something is not there, by the list that it is missing from, then by name."""

    capacities: dict[str, float] = field(default_factory=dict)

    def ours(self, targets: Sequence[Target]) -> list[Target]:
        """Those of quantmesh."""
        return [target for target in targets if target.role is Role.OURS]

    def of_replica(self, targets: Sequence[GrpcTarget], replica: Replica) -> GrpcTarget | None:
        """The target of a replica."""
        return next((target for target in targets if target.server == replica.name), None)

    async def capacity(self, target: GrpcTarget) -> float:
        """OK calls a second of a replica, closed loop; measured once."""
        if target.server not in self.capacities:
            rounds = [await self.loads.closed(target, FULL, self.plan.seconds) for _ in range(max(3, self.plan.rounds))]
            self.capacities[target.server] = typical(rounds).rate
        return self.capacities[target.server]

    async def each_replica(self, section: Section, measure: Measure) -> None:
        """One column of figures for each replica."""
        section.missing.update(self.missing.get("predict", {}))
        columns: dict[str, dict[str, str]] = {}
        for replica in self.replicas:
            target = self.of_replica(self.predict, replica)
            if target is not None:
                _say(f"{section.name}: {replica.name}")
                try:
                    columns[replica.name] = await measure(self, section, replica, target)
                except (RuntimeError, UnavailableError) as error:
                    section.missing[replica.name] = str(error)
        section.columns = ("", *columns)
        for label in next(iter(columns.values()), {}):
            section.lines.append((label, *(column[label] for column in columns.values())))

    async def offer(self, kind: str, target: GrpcTarget | RestTarget) -> None:
        """Take a target into `predict`, `batch`, `stream` or `rest`, once its answers are right."""
        try:
            await verify(target)
        except WrongAnswerError as error:
            self.lack(str(error), target.server, kind)
        else:
            getattr(self, kind).append(target)

    def lack(self, why: str, name: str, *kinds: str) -> None:
        """Say why something is not there."""
        print(f"{name}: not available: {why}", file=sys.stderr)
        for kind in kinds:
            self.missing.setdefault(kind, {})[name] = why


Measure = Callable[[Fleet, Section, Replica, GrpcTarget], Awaitable[dict[str, str]]]


async def gather(stack: AsyncExitStack, fleet: Fleet, listeners: Sequence[str], with_peers: bool) -> None:
    """Start quantmesh, the floors and the peers; they end with the stack."""
    work = fleet.workload
    requests = ours.single_requests(work)
    for listener in listeners:
        _say(f"starting quantmesh {listener}")
        name = f"quantmesh ({listener})" if listener else "quantmesh"
        try:
            replica = await ours.start(stack, fleet.folder / f"home-{listener}", listener, work)
        except UnavailableError as error:
            fleet.lack(str(error), name, "predict", "batch", "stream", "rest")
            continue
        fleet.replicas.append(replica)
        await fleet.offer("predict", replica.predict(requests, work))
        await offer_batches(fleet, replica)
        for target in await replica.rest(work):
            await fleet.offer("rest", target)
    made = peers.Peers(stack, fleet.folder, work)
    await _floor(fleet, peers.ECHO, lambda: made.echo(ours.PREDICT, requests))
    if with_peers:
        await _floor(fleet, peers.AIO_ECHO, lambda: made.aio_echo(ours.PREDICT, requests))
        for workers in (1, 0):
            await _peer(fleet, peers.MLSERVER if workers else peers.MLSERVER_INLINE, made.mlserver, workers)
        await _peer(fleet, peers.TRITON, made.triton)
        await _peer(fleet, peers.FASTAPI, made.fastapi)


async def offer_batches(fleet: Fleet, replica: Replica) -> None:
    """Take a replica's ways for many rows into `batch` and `stream`."""
    work, name = fleet.workload, replica.name
    await fleet.offer("batch", replica.batch(ours.batch_requests(work), work))
    await _optional(fleet, "batch", f"{name}, packed", lambda: replica.packed_batch(work))
    await _optional(fleet, "stream", f"{name}, packed batches", lambda: replica.stream(work, True))
    await _optional(fleet, "stream", f"{name}, single rows", lambda: replica.stream(work, False))


async def at_rest(fleet: Fleet) -> None:
    """Say what all servers together use while nobody asks them anything: it is taken from whoever is measured."""
    use = Machine()
    await asyncio.sleep(_REST_S)
    fleet.report.say(f"all servers at rest use {use.ours():.1%} of the machine")


async def _optional(fleet: Fleet, kind: str, name: str, make: Callable[[], GrpcTarget]) -> None:
    try:
        await fleet.offer(kind, replace(make(), server=name))
    except UnavailableError as error:
        fleet.lack(str(error), name, kind)


async def _floor(fleet: Fleet, name: str, start: Callable[[], Awaitable[GrpcTarget]]) -> None:
    _say(f"starting {name}")
    try:
        await fleet.offer("predict", await start())
    except UnavailableError as error:
        fleet.lack(str(error), name, "predict")


async def _peer(fleet: Fleet, name: str, start: Callable[..., Awaitable[peers.Peer]], *arguments: Any) -> None:
    _say(f"starting {name}")
    kinds = ("rest",) if name == peers.FASTAPI else ("predict", "batch", "rest")
    try:
        peer = await start(*arguments)
    except UnavailableError as error:
        fleet.lack(str(error), name, *(kinds[:2] if name == peers.TRITON else kinds))
        return
    for kind in kinds:
        target = getattr(peer, kind)
        if target is not None:
            await fleet.offer(kind, target)


async def interleaved(
    fleet: Fleet,
    targets: Sequence[Target],
    loads: Sequence[Load],
    run: Callable[[Target, Load], Awaitable[Result]],
    missing: dict[str, str],
) -> dict[tuple[str, Load], Result]:
    """Medians by server and load: in each round every server takes its turn at every load, in a rotating order.

    A server that breaks is told of in `missing`, and takes no further part.
    """
    results: dict[tuple[str, Load], list[Result]] = {}
    left = list(targets)
    for number in range(fleet.plan.rounds):
        for load in loads:
            _say(f"round {number + 1} of {fleet.plan.rounds}: {load}")
            turn = number % max(1, len(left))
            for target in left[turn:] + left[:turn]:
                try:
                    results.setdefault((target.server, load), []).append(await run(target, load))
                except (RuntimeError, UnavailableError) as error:
                    missing[target.server] = str(error)
                    left.remove(target)
    return {key: typical(each) for key, each in results.items() if key[0] not in missing}


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr)
