"""Prometheus metrics of inference. Labels are strategies, which deployments bound, and closed sets."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from runtime.hot_metrics import Durations, HotCounter, HotHistogram

PREDICTIONS = HotCounter("quantmesh_inference_predictions_total", "Rows scored for callers.", ["strategy"])
SECONDS = HotHistogram(
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

SHADOW_SCORED = Counter("quantmesh_inference_shadow_rows_scored_total", "Rows that challengers scored.", ["strategy"])
SHADOW_DROPPED = Counter(
    "quantmesh_inference_shadow_rows_dropped_total",
    "Rows that a challenger was to score and did not, by reason: full, down, no_model, failed.",
    ["strategy", "reason"],
)
SHADOW_PAIRS = Counter("quantmesh_inference_shadow_pairs_written_total", "Pairs written to Redis.", ["strategy"])
SHADOW_PAIRS_LOST = Counter(
    "quantmesh_inference_shadow_pairs_lost_total", "Pairs that could not be written to Redis in time.", ["strategy"]
)
SHADOW_RESTARTS = Counter("quantmesh_inference_shadow_restarts_total", "Ends of the shadow process by itself.")


class CallSeconds(HotHistogram):
    """A histogram of what another process has measured, added up here, by strategy."""

    BOUNDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1, 10)
    """Upper bounds of the buckets, seconds; one more is for what is above."""

    def __init__(self, name: str, documentation: str) -> None:
        super().__init__(name, documentation, ["strategy"], self.BOUNDS)

    def _make(self) -> Durations:
        return self.empty()

    @classmethod
    def empty(cls) -> Durations:
        """A series without calls, for that other process."""
        return Durations(cls.BOUNDS)

    def add(self, strategy: str, counts: Sequence[int], seconds: float) -> None:
        """Add calls, by bucket, and what they took together."""
        self.labels(strategy).add(counts, seconds)


CHALLENGER_SECONDS = CallSeconds(
    "quantmesh_inference_challenger_seconds", "Time of a challenger's call, which has one row, seconds."
)
