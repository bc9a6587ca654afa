"""Prometheus metrics of inference. Labels are strategies, which deployments bound, and closed sets."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

PREDICTIONS = Counter("quantmesh_inference_predictions_total", "Rows scored over gRPC.", ["strategy"])
predictions = cache(PREDICTIONS.labels)
"""The counter of a strategy: looked up once. Strategies are those of deployments, so they are few."""
SECONDS = Histogram(
    "quantmesh_inference_seconds",
    "Time in the service of a call that succeeded, seconds.",
    ["method"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
OVER_TARGET = Counter("quantmesh_inference_over_target_total", "Calls slower than the objective.", ["method"])
TARGET_SECONDS = Gauge("quantmesh_inference_target_seconds", "The latency objective (p99), seconds.")

SWAPS = Counter("quantmesh_inference_swaps_total", "Deployments that this replica went over to.", ["strategy"])
LOAD_ERRORS = Counter("quantmesh_inference_load_errors_total", "Versions that could not be loaded.", ["strategy"])
LOADED_MODELS = Gauge("quantmesh_inference_loaded_models", "Versions in memory.")

SIGNALS = Counter("quantmesh_inference_signals_total", "Signals made, those of a repeated commit too.", ["strategy"])
SKIPPED = Counter(
    "quantmesh_inference_vectors_skipped_total",
    "Feature vectors that gave no signal, by reason: no_model, missing, stale, unusable.",
    ["reason"],
)
HELD = Gauge(
    "quantmesh_inference_held_vectors",
    "Feature vectors that wait for a strategy whose model could not be loaded.",
    ["strategy"],
)
