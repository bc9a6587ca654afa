"""`quantmesh demo`: the whole mesh on twenty US equities, in one command."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.us_equities import job
from examples.us_equities.replay import STAGES, StalledError
from examples.us_equities.report import as_dict, render
from runtime import logs, telemetry
from runtime.cli.output import EX_FAILED, fail
from runtime.cli.places import read_settings
from runtime.errors import ConfigurationError, QuantmeshError
from runtime.process import EX_CONFIG, ended
from runtime.redis_client import connect
from runtime.settings import MeshSettings
from runtime.supervisor import Mesh
from streams import load_catalog

app = typer.Typer(add_completion=False)

_READY_S = 60.0
_EX_INTERRUPTED = 130


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
    """Run the demo in a folder of its own, on an embedded Redis of its own: it touches nothing of yours."""
    settings = read_settings(as_json)
    settings = settings.model_copy(update={"home": settings.home / "demo", "redis_url": None})
    logs.configure("demo", settings)
    telemetry.configure("demo")
    try:
        _require_ours(settings.home)
        code = asyncio.run(_until_told(settings, Console(stderr=as_json), once, sessions, as_json))
    except StalledError as error:
        fail(as_json, "", str(error), "STALLED")
    except QuantmeshError as error:
        configured = isinstance(error, ConfigurationError) or error.reason == "MESH_CONFIGURATION"
        fail(as_json, "", error.message, error.reason, exit_code=EX_CONFIG if configured else EX_FAILED)
    raise typer.Exit(code)


def _require_ours(home: Path) -> None:
    """The demo forgets its last run; what it did not make itself it does not touch."""
    if home.exists() and not (home / "run" / "mesh.lock").exists() and any(home.iterdir()):
        raise ConfigurationError(
            f"{home} is not empty, and not a demo's: move it, or set QUANTMESH_HOME to another folder",
            reason="FOLDER_IN_USE",
        )


async def _until_told(settings: MeshSettings, console: Console, once: bool, sessions: int | None, as_json: bool) -> int:
    """Run the demo until it is done, or SIGINT or SIGTERM; returns the exit code."""
    mesh = Mesh(settings, fresh=True)
    told = asyncio.Event()

    def on_signal() -> None:
        if told.is_set():
            mesh.kill()
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    async with mesh:
        reported = asyncio.Event()
        running = asyncio.create_task(_run(mesh, console, once, sessions, as_json, reported))
        waiting = asyncio.create_task(told.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        await ended(waiting)
        if running.done():
            return 0 if running.result() else EX_FAILED
        await ended(running)
        return 0 if reported.is_set() else _EX_INTERRUPTED


async def _run(
    mesh: Mesh, console: Console, once: bool, sessions: int | None, as_json: bool, reported: asyncio.Event
) -> bool:
    """Do the job and print the report, then serve; returns whether the books balance."""
    with console.status("training two models on 2005 to 2018, starting the mesh"):
        plan = await asyncio.to_thread(job.Plan.of, sessions)
        models = await asyncio.to_thread(plan.train)
        await mesh.ready(_READY_S)
    redis = connect(mesh.redis_url)
    try:
        with _progress(console) as progress:
            catalog = load_catalog(mesh.settings.partitions)
            report = await job.run(plan, models, mesh.addresses, redis, catalog, _bars(progress, plan))
    finally:
        await redis.aclose()
    if as_json:
        typer.echo(json.dumps(as_dict(report, mesh.addresses), indent=2))
    else:
        render(console, report, mesh.addresses)
    reported.set()
    if not once:
        _invite(console, mesh, report)
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


def _invite(console: Console, mesh: Mesh, report: job.Report) -> None:
    body = json.dumps({"model_name": "champion", "features": [round(value, 4) for value in report.last_features]})
    console.print(
        f"\n[bold]The mesh keeps serving[/] until Ctrl-C; logs in {mesh.logs_dir}, Redis {mesh.redis_url}. "
        "`quantmesh status` says how it is. Try:\n"
    )
    console.print(
        f"curl -s {mesh.addresses.gateway}/inference/predict -H 'Content-Type: application/json' -d '{body}'",
        soft_wrap=True,
    )
    console.print(
        f"grpcurl -plaintext -d '{body}' {mesh.addresses.inference} quantmesh.inference.v1.InferenceService/Predict",
        soft_wrap=True,
    )
