"""Where the commands find the mesh: where one runs, on this home or below it, or where the settings would have it."""

from __future__ import annotations

from runtime.settings import MeshSettings
from runtime.supervisor.listeners import addresses_of
from runtime.supervisor.record import Addresses, find_record


def addresses(settings: MeshSettings) -> Addresses:
    """Addresses of the running mesh, or those that the settings give."""
    record = find_record(settings.home)
    return record.addresses if record else addresses_of(settings)
