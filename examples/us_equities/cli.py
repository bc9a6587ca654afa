"""`quantmesh demo`: the whole mesh on twenty US equities, in one command."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.us_equities import job
from examples.us_equities.replay import STAGES, StalledError
from examples.us_equities.report import as_dict, render
from runtime import telemetry
from runtime.errors import QuantmeshError
from runtime.process import load_settings
from runtime.redis_client import connect
from runtime.settings import MeshSettings
from runtime.supervisor import Addresses, Mesh, read_record
from streams import load_catalog

app = typer.Typer(add_completion=False)

_READY_S = 60.0


@app.command(
    help="Replay real prices through the whole mesh and print what came out; then keep serving.",
    epilog="Examples: `quantmesh demo --once` · `quantmesh demo --sessions 100` · `quantmesh demo --once --json`",
)
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End when the report is out; exit code 1 if it has a fault.")
    ] = False,
    sessions: Annotated[int | None, typer.Option(min=10, help="Replay only so many sessions from 2019 on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run the demo in a directory of its own, on an embedded Redis of its own: it touches nothing of yours."""
    settings = load_settings(MeshSettings)
    home = settings.home / "demo"
    _clear(home)
    console = Console(stderr=as_json)
    telemetry.configure("demo")
    try:
        sound = asyncio.run(
            _demo(settings.model_copy(update={"home": home, "redis_url": None}), console, once, sessions, as_json)
        )
    except KeyboardInterrupt:
        sound = True
    except (QuantmeshError, StalledError) as error:
        console.print(f"[bold red]{error}[/]")
        sound = False
    sys.exit(0 if sound else 1)


def _clear(home: Path) -> None:
    """Forget the run before, unless its mesh is still up (then starting says so)."""
    if read_record(home) is None:
        shutil.rmtree(home, ignore_errors=True)


async def _demo(settings: MeshSettings, console: Console, once: bool, sessions: int | None, as_json: bool) -> bool:
    async with Mesh(settings) as mesh:
        with console.status("training two models on 2005 to 2018, starting the mesh"):
            plan = await asyncio.to_thread(job.Plan.of, sessions)
            models = await asyncio.to_thread(plan.train)
            await mesh.ready(_READY_S)
        redis = connect(mesh.redis_url)
        with _progress(console) as progress:
            show = _bars(progress, plan)
            report = await job.run(plan, models, mesh.addresses, redis, load_catalog(settings.partitions), show)
        await redis.aclose()
        if as_json:
            print(json.dumps(as_dict(report, mesh.addresses), indent=2))  # noqa: T201
        else:
            render(console, report, mesh.addresses)
        if not once:
            _invite(console, mesh.addresses, report)
            await mesh.watch()
    return report.books.balanced


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _bars(progress: Progress, plan: job.Plan) -> Callable[[dict[str, int]], None]:
    """One bar a stage; returns what moves them."""
    bars = {stage: progress.add_task(stage, total=plan.expected.counts[stage]) for stage in STAGES}

    def show(counts: dict[str, int]) -> None:
        for stage, count in counts.items():
            progress.update(bars[stage], completed=count)

    return show


def _invite(console: Console, mesh: Addresses, report: job.Report) -> None:
    body = json.dumps({"model_name": "champion", "features": [round(value, 4) for value in report.last_features]})
    console.print("\n[bold]The mesh keeps serving[/] until Ctrl-C. Try:\n")
    console.print(
        f"curl -s {mesh.gateway}/inference/predict -H 'Content-Type: application/json' -d '{body}'", soft_wrap=True
    )
    console.print(
        f"grpcurl -plaintext -d '{body}' {mesh.inference} quantmesh.inference.v1.InferenceService/Predict",
        soft_wrap=True,
    )
