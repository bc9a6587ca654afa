"""How commands speak: a table for people or JSON for scripts on standard output, faults in one line, exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import grpc.aio
import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runtime.errors import FieldViolation, QuantmeshError
from runtime.grpc_failure import failure_of

EX_FAILED = 1

_WIDE = 200
"""Columns of a table that goes to a file or a pipe, so that a digest stays in one piece."""

Result = TypeVar("Result")


def show(as_json: bool, data: Any, *renderables: RenderableType) -> None:
    """Print `data` as one line of JSON, or what renders it."""
    if as_json:
        typer.echo(json.dumps(data))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    console.print(*renderables, sep="\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> RenderableType:
    """A plain table under a line that says what it is; None is shown as a dash, the names of no columns not at all."""
    drawn = Table(*columns, box=None, pad_edge=False, show_header=any(columns), header_style="dim")
    for row in rows:
        drawn.add_row(*("-" if cell is None else escape(str(cell)) for cell in row))
    return Group(Text(title, style="bold"), drawn) if rows else Text(title, style="bold")


def call(work: Coroutine[Any, Any, Result], as_json: bool) -> Result:
    """Run a coroutine to its result; a failed RPC ends the command with one clear line and exit code 1."""
    try:
        return asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        fail(as_json, failure.code.name, failure.message, failure.reason, failure.violations)
    except QuantmeshError as error:
        fail(as_json, "", error.message, error.reason, error.violations)


def fail(
    as_json: bool,
    status: str,
    message: str,
    reason: str,
    violations: Sequence[FieldViolation] = (),
    exit_code: int = EX_FAILED,
) -> NoReturn:
    """Say what went wrong and end the command. `status` is the gRPC status, empty when no RPC failed."""
    if as_json:
        fields = [{"field": violation.field, "description": violation.description} for violation in violations]
        typer.echo(json.dumps({"error": {"status": status, "reason": reason, "message": message, "fields": fields}}))
    kind = f"{status} ({reason}): " if reason else f"{status}: "
    typer.echo(f"{kind if status else ''}{message}", err=True)
    for violation in violations:
        if violation.field not in message:
            typer.echo(f"  {violation.field}: {violation.description}", err=True)
    raise typer.Exit(exit_code)
