"""The balancer's process: `python -m runtime.supervisor.balancing`.

It reads the settings as every service does, writes Envoy's configuration into the home and becomes Envoy: the same
process, so that the supervisor has nothing in between. A fault of the configuration is exit code 78.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

import structlog

from runtime import logs
from runtime.envoy.balancer import configuration
from runtime.errors import ConfigurationError
from runtime.ports import require_free
from runtime.process import EX_CONFIG, load_settings
from runtime.settings import MeshSettings
from runtime.supervisor.balancer import NAME, balancer_of, check, command, require_envoy
from runtime.supervisor.record import run_directory, usable

log = structlog.get_logger()


def _become_envoy(settings: MeshSettings) -> NoReturn:
    envoy = require_envoy()
    balancer = balancer_of(settings)
    # Envoy's own words for these are many, and name no setting.
    require_free(balancer.host, balancer.port, "QUANTMESH_INFERENCE_PORT")
    require_free(balancer.host, settings.inference_metrics_port, "QUANTMESH_INFERENCE_METRICS_PORT")
    file = run_directory(settings.home) / "balancer.json"
    with usable(settings.home):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(configuration(balancer), indent=2))
    threads = min(len(balancer.replicas), os.cpu_count() or 1)
    try:
        check(envoy, file)
        os.execv(envoy, command(envoy, file, threads))
    except OSError as error:
        raise ConfigurationError(f"{envoy} cannot be run: {error.strerror}", reason="ENVOY_UNUSABLE") from error


def main() -> None:
    """Become Envoy. Never returns."""
    settings = load_settings(MeshSettings)
    logs.configure(NAME, settings)
    try:
        _become_envoy(settings)
    except ConfigurationError as error:
        log.error(error.message)
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
