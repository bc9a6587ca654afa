"""Look at streams, verify them, care for groups and dead letters: `quantmesh streams --help`."""

from streams.cli.app import app

__all__ = ["app"]
