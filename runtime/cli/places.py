"""Where the commands find the mesh: the one that runs on this home, else the ports of the settings."""

from __future__ import annotations

from runtime.settings import MeshSettings
from runtime.supervisor.listeners import addresses_of
from runtime.supervisor.record import Addresses, read_record


def addresses(settings: MeshSettings) -> Addresses:
    """Addresses of the running mesh, or those that the settings give."""
    record = read_record(settings.home)
    return record.addresses if record else addresses_of(settings)
