"""How commands speak: a table for people or JSON for scripts on standard output, faults in one line, exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from runtime.errors import ConfigurationError, FieldViolation, QuantmeshError
from runtime.grpc_failure import failure_of
from runtime.process import EX_CONFIG

EX_FAILED = 1

_WIDE = 200
"""Columns of a table that goes to a file or a pipe."""

_MAY_BE_DONE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""After these a change may have been made, or not."""

Result = TypeVar("Result")


def show(as_json: bool, data: Any, *renderables: RenderableType) -> None:
    """Print `data` as one line of JSON, or what renders it. No word is broken, so that a digest can be copied."""
    if as_json:
        typer.echo(json.dumps(data))
        return
    console = Console()
    width = console.width if console.is_terminal else _WIDE
    longest_word = max((Measurement.get(console, console.options, each).minimum for each in renderables), default=0)
    Console(width=max(width, longest_word)).print(*renderables, sep="\n", crop=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> RenderableType:
    """A plain table under a line that says what it is; None is shown as a dash, the names of no columns not at all."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    drawn = Table(box=None, pad_edge=False, show_header=any(columns), header_style="dim")
    for index, column in enumerate(columns):
        words = (word for row in cells for word in row[index].split())
        drawn.add_column(column, min_width=max(map(cell_len, words), default=0))
    for row in cells:
        drawn.add_row(*map(escape, row))
    return Group(Text(title, style="bold"), drawn) if rows else Text(title, style="bold")


def call(
    work: Coroutine[Any, Any, Result], as_json: bool, *, absent: str | None = None, request_id: str | None = None
) -> Result:
    """Run a coroutine to its result; a failed RPC ends the command with one clear line and exit code 1.

    `absent` is what to say when nothing answers. `request_id` is that of a change: who does not know whether it was
    made can ask again with it.
    """
    try:
        return asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        message = failure.message
        if absent is not None and failure.code is grpc.StatusCode.UNAVAILABLE and not failure.reason:
            message = absent
        elif request_id is not None and failure.code in _MAY_BE_DONE:
            message += f" (to ask again for the same change, give --request-id {request_id})"
        fail(as_json, failure.code.name, message, failure.reason, failure.violations, request_id=request_id)
    except QuantmeshError as error:
        code = EX_CONFIG if isinstance(error, ConfigurationError) else EX_FAILED
        fail(as_json, "", error.message, error.reason, error.violations, code)


def fail(
    as_json: bool,
    status: str,
    message: str,
    reason: str,
    violations: Sequence[FieldViolation] = (),
    exit_code: int = EX_FAILED,
    request_id: str | None = None,
) -> NoReturn:
    """Say what went wrong and end the command. `status` is the gRPC status, empty when no RPC failed."""
    if as_json:
        fields = [{"field": violation.field, "description": violation.description} for violation in violations]
        error = {"status": status, "reason": reason, "message": message, "fields": fields}
        typer.echo(json.dumps({"error": error if request_id is None else {**error, "request_id": request_id}}))
    kind = f"{status} ({reason}): " if reason else f"{status}: "
    typer.echo(f"{kind if status else ''}{message}", err=True)
    for violation in violations:
        if violation.description not in message:
            typer.echo(f"  {violation.field}: {violation.description}", err=True)
    raise typer.Exit(exit_code)
