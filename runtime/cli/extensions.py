"""Commands that other packages add, by the entry-point group `quantmesh.commands`; each names a typer app.

One is imported only when it is run. In a list of commands it appears with the first line of its module's docstring,
read from the source, so that a slow or broken package costs the other commands nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib.machinery import PathFinder
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
        doc = ast.get_docstring(ast.parse(_source(point.module)))
    except (ImportError, OSError, SyntaxError, AttributeError):
        doc = None
    return doc.partition("\n")[0] if doc else f"From {point.module}, which is not there or has no description."


def _source(module: str) -> str:
    # Part by part, because `importlib.util.find_spec` imports the packages that a module is in.
    path: Sequence[str] | None = None
    spec: Any = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            raise ImportError(name)
        path = spec.submodule_search_locations
    return str(spec.loader.get_source(module) or "")
