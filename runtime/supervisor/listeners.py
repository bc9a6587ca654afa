"""The ports of a mesh: chosen where the settings leave the choice, and known to be free before anything starts."""

from __future__ import annotations

from runtime.ports import address, dialled, free_port, require_free
from runtime.settings import MeshSettings
from runtime.supervisor.record import Addresses

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
    """The settings with a free port for each 0. Raises PortInUseError, which names the setting, for a taken one."""
    chosen: dict[str, int] = {}
    for field in _PORTS:
        port: int = getattr(settings, field)
        if port:
            require_free(settings.host, port, f"QUANTMESH_{field.upper()}")
            continue
        while not port or port in chosen.values():
            port = free_port(settings.host)
        chosen[field] = port
    return settings.model_copy(update=chosen)


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
