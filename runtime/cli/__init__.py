"""The `quantmesh` command. What a command needs is imported when it runs, so that `--help` and completion are quick."""

from runtime.cli.app import main

__all__ = ["main"]
