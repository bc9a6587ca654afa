"""The ports of a mesh: chosen where the settings leave the choice, and known to be free before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runtime.errors import ConfigurationError, PortInUseError
from runtime.ports import address, dialled, free_port, require_free
from runtime.settings import MeshSettings
from runtime.supervisor.record import Addresses, neighbours, run_directory

_PORTS = (
    "feature_port",
    "inference_port",
    "mlops_port",
    "gateway_port",
    "feature_metrics_port",
    "inference_metrics_port",
    "mlops_metrics_port",
)
_OF_REPLICAS = ("replica_port", "replica_metrics_port")
"""First ports of as many as there are replicas, when there are several."""

_MAX_PORT = 65_535
_TRIES = 100


def with_ports(settings: MeshSettings) -> MeshSettings:
    """The settings with a free port for each 0.

    Raises PortInUseError, which names the setting, for a taken one, and ConfigurationError for two that are equal and
    for a host that cannot be listened on.
    """
    wanted: dict[int, str] = {}
    for field, port in _wanted(settings):
        if port in wanted:
            raise ConfigurationError(
                f"{wanted[port]} and {_variable(field)} are both {port}: each needs a port of its own",
                reason="PORTS_EQUAL",
                metadata={"setting": _variable(field)},
            )
        if port > _MAX_PORT:
            raise ConfigurationError(
                f"{_variable(field)} is too high: {settings.replicas} replicas need as many ports, up to {_MAX_PORT}",
                reason="PORTS_TOO_HIGH",
                metadata={"setting": _variable(field)},
            )
        wanted[port] = _variable(field)
    for port, setting in wanted.items():
        _require_free(settings, port, setting)
    chosen: dict[str, int] = {}
    taken = set(wanted)
    for field in _fields(settings):
        if not getattr(settings, field):
            ports = _free_ports(settings, len(_ports(settings, field)), taken)
            chosen[field] = ports[0]
            taken.update(ports)
    return settings.model_copy(update=chosen)


def _fields(settings: MeshSettings) -> tuple[str, ...]:
    return (*_PORTS, *(_OF_REPLICAS if settings.replicas > 1 else ()))


def _ports(settings: MeshSettings, field: str) -> range:
    """The ports of a field: one, or one for each replica."""
    first: int = getattr(settings, field)
    return range(first, first + (settings.replicas if field in _OF_REPLICAS else 1))


def _wanted(settings: MeshSettings) -> Iterator[tuple[str, int]]:
    for field in _fields(settings):
        if getattr(settings, field):
            for port in _ports(settings, field):
                yield field, port


def _free_ports(settings: MeshSettings, count: int, taken: set[int]) -> range:
    """So many free ports in a row, none of those that are taken by ourselves."""
    for _ in range(_TRIES):
        first = free_port(settings.host)
        ports = range(first, first + count)
        if ports[-1] <= _MAX_PORT and taken.isdisjoint(ports) and _are_free(settings.host, ports[1:]):
            return ports
    raise ConfigurationError(
        f"no {count} free ports in a row on {settings.host}: set QUANTMESH_REPLICA_PORT and "
        "QUANTMESH_REPLICA_METRICS_PORT",
        reason="NO_FREE_PORTS",
    )


def _are_free(host: str, ports: range) -> bool:
    try:
        for port in ports:
            require_free(host, port, "")
    except PortInUseError:
        return False
    return True


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

    def metrics(port: int) -> str:
        return f"http://{address(host, port)}/metrics"

    several = settings.replicas > 1
    inference = "balancer" if several else "inference_svc"
    replicas = range(settings.replicas if several else 0)
    gateway = f"http://{address(host, settings.gateway_port)}"
    return Addresses(
        feature=address(host, settings.feature_port),
        inference=address(host, settings.inference_port),
        mlops=address(host, settings.mlops_port),
        gateway=gateway,
        metrics={
            "feature_svc": metrics(settings.feature_metrics_port),
            "mlops_svc": metrics(settings.mlops_metrics_port),
            inference: metrics(settings.inference_metrics_port),
            "gateway": f"{gateway}/metrics",
            **{replica_name(index): metrics(settings.replica_metrics_port + index) for index in replicas},
        },
        replicas={replica_name(index): address(host, settings.replica_port + index) for index in replicas},
        balancer_admin=str(run_directory(settings.home) / "balancer.sock") if several else "",
    )


def replica_name(index: int) -> str:
    """Name of the process of one of several replicas, of which 0 is the first."""
    return f"inference_svc-{index + 1}"
