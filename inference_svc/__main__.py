"""Run inference_svc: `python -m inference_svc`."""

from inference_svc.app import build
from inference_svc.settings import InferenceSettings
from runtime.process import run

if __name__ == "__main__":
    run(
        "inference_svc",
        InferenceSettings,
        build,
        metrics_port=lambda settings: settings.inference_metrics_port,
        metrics_setting="QUANTMESH_INFERENCE_METRICS_PORT",
    )
