"""The ports of a mesh: chosen where the settings leave the choice, and known to be free before anything starts."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import ConfigurationError, PortInUseError
from runtime.ports import address, dialled, free_port, require_free
from runtime.settings import MeshSettings
from runtime.supervisor.record import Addresses, neighbours

_PORTS = (
    "feature_port",
    "inference_port",
    "mlops_port",
    "gateway_port",
    "feature_metrics_port",
    "inference_metrics_port",
    "mlops_metrics_port",
)


def with_ports(settings: MeshSettings) -> MeshSettings:
    """The settings with a free port for each 0.

    Raises PortInUseError, which names the setting, for a taken one, and ConfigurationError for two that are equal and
    for a host that cannot be listened on.
    """
    wanted: dict[int, str] = {}
    for field in _PORTS:
        port: int = getattr(settings, field)
        if not port:
            continue
        if port in wanted:
            raise ConfigurationError(
                f"{wanted[port]} and {_variable(field)} are both {port}: each needs a port of its own",
                reason="PORTS_EQUAL",
                metadata={"setting": _variable(field)},
            )
        wanted[port] = _variable(field)
    for port, setting in wanted.items():
        _require_free(settings, port, setting)
    chosen: dict[str, int] = {}
    for field in _PORTS:
        port = getattr(settings, field)
        if port:
            continue
        while not port or port in wanted or port in chosen.values():
            port = free_port(settings.host)
        chosen[field] = port
    return settings.model_copy(update=chosen)


def _variable(field: str) -> str:
    return f"QUANTMESH_{field.upper()}"


def _require_free(settings: MeshSettings, port: int, setting: str) -> None:
    try:
        require_free(settings.host, port, setting)
    except PortInUseError as error:
        for mesh in neighbours(settings.home):
            if port in mesh.addresses.ports:
                holder = f"the mesh of {Path(mesh.logs_dir).parent}: stop it with Ctrl-C or `kill {mesh.pid}`"
                raise PortInUseError(settings.host, port, setting, holder) from error
        raise


def addresses_of(settings: MeshSettings) -> Addresses:
    """Where clients of this machine reach everything; the ports are known."""
    host = dialled(settings.host)
    gateway = f"http://{address(host, settings.gateway_port)}"
    return Addresses(
        feature=address(host, settings.feature_port),
        inference=address(host, settings.inference_port),
        mlops=address(host, settings.mlops_port),
        gateway=gateway,
        metrics={
            "feature_svc": f"http://{address(host, settings.feature_metrics_port)}/metrics",
            "mlops_svc": f"http://{address(host, settings.mlops_metrics_port)}/metrics",
            "inference_svc": f"http://{address(host, settings.inference_metrics_port)}/metrics",
            "gateway": f"{gateway}/metrics",
        },
    )
