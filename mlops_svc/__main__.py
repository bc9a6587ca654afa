"""Run mlops_svc: `python -m mlops_svc`."""

from mlops_svc.app import build
from mlops_svc.settings import MlopsSettings
from runtime.process import Service, run

if __name__ == "__main__":
    run(
        Service(
            "mlops_svc",
            MlopsSettings,
            build,
            metrics_port=lambda settings: settings.mlops_metrics_port,
            metrics_setting="QUANTMESH_MLOPS_METRICS_PORT",
        )
    )
