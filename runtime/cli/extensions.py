"""Commands that other packages add, by the entry-point group `quantmesh.commands`; each names a typer app.

One is imported only when it is run. In a list of commands it appears with the first line of its module's docstring,
read from the source, so that a slow or broken package costs the other commands nothing.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

GROUP = "quantmesh.commands"


class ExtensibleGroup(TyperGroup):
    """The built-in commands, and those of entry points."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The built-in ones first, in the order of their definition."""
        return [*self.commands, *(name for name in _found() if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A built-in command, or the placeholder of another."""
        point = _found().get(cmd_name)
        built_in = super().get_command(ctx, cmd_name)
        return built_in if built_in is not None or point is None else TyperCommand(cmd_name, help=_summary(point))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command to run: here a placeholder gives way to the real one."""
        name, command, rest = super().resolve_command(ctx, args)
        point = _found().get(name or "")
        return name, _load(point) if point is not None and name not in self.commands else command, rest


def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(point: EntryPoint) -> Any:
    try:
        app = point.load()
    except (ImportError, AttributeError) as error:
        typer.echo(f"command {point.name} needs {point.value}, which cannot be imported: {error}", err=True)
        raise typer.Exit(1) from error
    command = typer.main.get_command(app)
    command.name = point.name
    return command


def _summary(point: EntryPoint) -> str:
    try:
        spec = importlib.util.find_spec(point.module)
        source = spec.loader.get_source(point.module) if spec and spec.loader else None  # type: ignore[attr-defined]
        doc = ast.get_docstring(ast.parse(source)) if source else None
    except (ImportError, SyntaxError, AttributeError):
        doc = None
    return doc.partition("\n")[0] if doc else f"From {point.module}, which is not there or has no description."
