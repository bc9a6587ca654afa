"""Measure the inference path beside its peers and floors: `python -m bench.inference`.

Every server has the same model: gradient boosting, 200 trees of depth 5, 50 features, ONNX Runtime on one thread.
Clients and servers share the machine, so read the ratios. Needs g++, pkg-config and libgrpc++-dev for the load
generator and the floor, wrk for REST, h2load for the cross-check; peers are installed from the package index.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from bench.inference import ours, workload
from bench.inference.arrivals import arrivals
from bench.inference.fleet import QUICK, Fleet, Plan, at_rest, gather
from bench.inference.load import Loads
from bench.inference.memory import Amount, memory
from bench.inference.overload import overload
from bench.inference.report import Report
from bench.inference.rest import rest
from bench.inference.rows import rows
from bench.inference.shadow import shadow
from bench.inference.swaps import swaps
from bench.inference.unary import http, one, unary
from bench.load.build import UnavailableError

_SECTIONS = {
    "unary": unary,
    "one": one,
    "http": http,
    "rest": rest,
    "rows": rows,
    "open": arrivals,
    "overload": overload,
    "swap": swaps,
    "shadow": shadow,
}
_WITHOUT_PEERS = {"overload", "swap", "shadow"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(_SECTIONS), help="these rows of the bench; default: all")
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument("--rounds", type=int, help="rounds of which the medians are taken")
    parser.add_argument("--listeners", nargs="+", metavar="NAME", help="INFER_LISTENER of the replicas; default: each")
    parser.add_argument("--no-peers", action="store_true", help="quantmesh and the floor of the transport alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument(
        "--memory", action="store_true", help="memory alone, over ten million predictions and 100 swaps"
    )
    parser.add_argument("--predictions", type=int, default=10_000_000, help="of --memory (default %(default)s)")
    parser.add_argument(
        "--unary", type=int, default=2_000_000, help="of these, in calls of one row (default %(default)s)"
    )
    return parser.parse_args()


async def _measure(options: argparse.Namespace) -> None:
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    names = options.only or list(_SECTIONS)
    _end_at_sigterm()
    report = Report()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantmesh-bench-")))
        work = await asyncio.to_thread(workload.make)
        fleet = Fleet(plan, folder, work, Loads(folder), report)
        with_peers = not (options.no_peers or options.memory or set(names) <= _WITHOUT_PEERS)
        await gather(stack, fleet, options.listeners or ours.listeners(), with_peers)
        await at_rest(fleet)
        if options.memory:
            await memory(fleet, Amount(options.predictions, min(options.unary, options.predictions)))
        else:
            for name in names:
                await _SECTIONS[name](fleet)
        if options.json:
            report.write(options.json)


def _end_at_sigterm() -> None:
    """As Ctrl-C does: no server outlives the bench."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def main() -> int:
    """Measure and print. Returns the exit code."""
    try:
        asyncio.run(_measure(_options()))
    except UnavailableError as error:
        print(f"the bench of the inference path cannot run: {error}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
