"""`quantmesh replay`: its options read, and its report in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.console import RenderableType

from inference_svc.replay import report as kinds
from inference_svc.replay import sinks
from inference_svc.replay.instants import parse_us, show
from inference_svc.replay.report import Report
from inference_svc.replay.run import Request, available, replay
from inference_svc.scorer import STREAM
from modelstore.artifacts import ArtifactStore
from modelstore.names import is_digest, is_strategy
from runtime.cli import output, places
from runtime.redis_client import Client
from streams import Catalog
from streams.cli.place import run as on_the_mesh


def run(since: str, until: str, model: str | None, strategy: str | None, out: Path | None, as_json: bool) -> None:
    """Replay and print the report; exit code 1 when not all was reproduced."""
    request = _request(since, until, model, strategy)
    if out is not None:
        try:
            sinks.check(out)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--out") from None
    place = places.find(as_json)
    models = place.home / "models"

    async def work(redis: Client, catalog: Catalog) -> tuple[Report, float]:
        keep_hours = catalog.stream(STREAM).retention.keep_hours or 0.0
        with sinks.opened(out) as sink:
            return await replay(redis, catalog, ArtifactStore(models), request, sink), keep_hours

    report, keep_hours = on_the_mesh(None, as_json, work, place.settings)
    document: dict[str, Any] = report.as_dict()
    notes = _notes(report, keep_hours, models)
    output.show(as_json, {**document, "notes": notes}, *_tables(report), *notes)
    if not report.sound:
        raise typer.Exit(output.EX_FAILED)


def _request(since: str, until: str, model: str | None, strategy: str | None) -> Request:
    from_us, to_us = _instant("--from", since), _instant("--to", until)
    if to_us <= from_us:
        raise typer.BadParameter(f"{show(to_us)} is not after --from, {show(from_us)}", param_hint="--to")
    if model is not None and not is_digest(model):
        raise typer.BadParameter(
            f"{model[:80]!r} is no digest: 64 lower-case hexadecimal characters, as `quantmesh status` shows them",
            param_hint="--model",
        )
    if strategy is not None and not is_strategy(strategy):
        raise typer.BadParameter(f"{strategy[:80]!r} is no name of a strategy", param_hint="--strategy")
    return Request(from_us, to_us, strategy, model)


def _instant(option: str, text: str) -> int:
    try:
        return parse_us(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _tables(report: Report) -> list[RenderableType]:
    drawn: list[RenderableType] = [
        output.table(
            f"{report.reproduced} of {report.recorded} recorded signals reproduced "
            f"({show(report.from_us)} to {show(report.to_us)}, {report.vectors} vectors)",
            ("strategy", "recorded", "reproduced", "not reproduced", "vectors without a signal"),
            [
                (
                    name,
                    each.recorded,
                    each.signals[kinds.REPRODUCED],
                    _counts({what: n for what, n in each.signals.items() if what != kinds.REPRODUCED}),
                    _counts(each.without_signal),
                )
                for name, each in sorted(report.strategies.items())
            ],
        )
    ]
    if report.model is not None:
        faults = _counts(report.model.faults)
        title = f"Model {report.model.digest} scored {report.model.scored} of the vectors"
        drawn.append(output.table(title + (f"; not: {faults}" if faults else ""), (), []))
    if report.cases:
        columns = ("what", "strategy", "partition", "entry_id", "symbol", "as_of", "detail")
        rows = [[getattr(case, column) for column in columns] for case in report.cases]
        drawn.append(output.table(f"The first of each kind, at most {kinds.CASES}", columns, rows))
    return drawn


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in sorted(counts.items()) if count)


def _notes(report: Report, keep_hours: float, models: Path) -> list[str]:
    """What a person needs to know to go on."""
    notes = []
    trimmed = sum(each.signals[kinds.VECTOR_TRIMMED] for each in report.strategies.values())
    other = sum(each.other_runtime for each in report.strategies.values())
    if report.refused:
        notes.append(f"Vectors that are not what they claim to be: {_counts(report.refused)}.")
    if other:
        notes.append(
            f"{other} signals were made by another version of the runtime or on another kind of machine, which may "
            "round differently: where only their prediction differs, replay there to know."
        )
    unknown = sum(each.signals[kinds.UNKNOWN_MODEL] for each in report.strategies.values())
    if unknown:
        notes.append(f"Models are looked for in {models}: QUANTMESH_HOME is to be the home of the mesh.")
    if trimmed or not report.vectors:
        notes.append(
            f"{available(report)}; retention keeps them for {keep_hours:g} hours after they were scored. To replay "
            f"from further back, raise keep_hours of {STREAM} in streams.yaml."
        )
    if not report.recorded and (report.model is None or not report.model.scored):
        notes.append("There was nothing to reproduce.")
    return notes
