"""Where the commands find the mesh: where one runs, on this home or below it, or where the settings would have it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer

from runtime import environment
from runtime.cli.output import fail
from runtime.errors import ConfigurationError
from runtime.process import EX_CONFIG
from runtime.settings import MeshSettings
from runtime.supervisor.listeners import addresses_of
from runtime.supervisor.record import Addresses, MeshRecord, find_record


@dataclass(frozen=True, slots=True)
class Place:
    """The settings, and the mesh that runs on their home; None when none does."""

    settings: MeshSettings
    record: MeshRecord | None

    @property
    def addresses(self) -> Addresses:
        """Addresses of the running mesh, or those that the settings give."""
        return self.record.addresses if self.record else addresses_of(self.settings)

    @property
    def home(self) -> Path:
        """Folder of the mesh whose Redis a command uses: that of the running mesh, which may be below ours, unless
        QUANTMESH_REDIS_URL names another Redis than its."""
        if self.record is not None and self.settings.redis_url in (None, self.record.redis_url):
            return Path(self.record.logs_dir).parent
        return self.settings.home

    def inference(self, address: str | None) -> tuple[str, str | None]:
        """Address of inference_svc (the one given, or ours), and what to say when nothing answers there."""
        return self._target(address, self.addresses.inference)

    def mlops(self, address: str | None) -> tuple[str, str | None]:
        """The same of mlops_svc."""
        return self._target(address, self.addresses.mlops)

    def _target(self, given: str | None, ours: str) -> tuple[str, str | None]:
        if given is not None or self.record is not None:
            return given or ours, None
        return ours, (
            f"no mesh runs on {self.settings.home}, and nothing answers at {ours}: start one with `quantmesh up`, "
            "or give --address"
        )


def read_settings(as_json: bool) -> MeshSettings:
    """The settings; wrong ones end the command with exit code 78."""
    for said in environment.unread(os.environ):
        typer.echo(f"warning: {said}", err=True)
    try:
        return environment.read(MeshSettings)
    except ConfigurationError as error:
        _misconfigured(as_json, error)


def find(as_json: bool) -> Place:
    """The settings and the running mesh; wrong settings end the command with exit code 78."""
    settings = read_settings(as_json)
    try:
        return Place(settings, find_record(settings.home))
    except ConfigurationError as error:
        _misconfigured(as_json, error)


def _misconfigured(as_json: bool, error: ConfigurationError) -> NoReturn:
    fail(as_json, "", error.message, error.reason, error.violations, EX_CONFIG)
