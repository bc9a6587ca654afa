"""Run feature_svc: `python -m feature_svc`."""

from feature_svc.app import build
from feature_svc.settings import FeatureSettings
from runtime.process import Service, run

if __name__ == "__main__":
    run(
        Service(
            "feature_svc",
            FeatureSettings,
            build,
            metrics_port=lambda settings: settings.feature_metrics_port,
            metrics_setting="QUANTMESH_FEATURE_METRICS_PORT",
        )
    )
