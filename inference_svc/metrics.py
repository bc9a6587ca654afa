"""Prometheus metrics of inference. Labels are strategies, which deployments bound, and closed sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.hot_metrics import HotCounter, HotHistogram

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


class CallSeconds(Collector):
    """A histogram of what another process has measured, added up here."""

    BOUNDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1, 10)
    """Upper bounds of the buckets, seconds; one more is for what is above."""

    def __init__(self, name: str, description: str) -> None:
        self._name = name
        self._description = description
        self._seen: dict[str, tuple[list[int], float]] = {}

    def add(self, strategy: str, counts: Sequence[int], seconds: float) -> None:
        """Add calls, by bucket, and what they took together."""
        before, total_s = self._seen.get(strategy, ([0] * len(counts), 0.0))
        self._seen[strategy] = [sum(pair) for pair in zip(before, counts, strict=True)], total_s + seconds

    def describe(self) -> Iterable[Metric]:
        """The family, empty."""
        return [HistogramMetricFamily(self._name, self._description, labels=["strategy"])]

    def collect(self) -> Iterable[Metric]:
        """The family."""
        family = HistogramMetricFamily(self._name, self._description, labels=["strategy"])
        names = [*(f"{bound:g}" for bound in self.BOUNDS), "+Inf"]
        for strategy, (counts, seconds) in list(self._seen.items()):
            buckets = [(name, float(count)) for name, count in zip(names, accumulate(counts), strict=True)]
            family.add_metric([strategy], buckets, seconds)
        return [family]


CHALLENGER_SECONDS = CallSeconds(
    "quantmesh_inference_challenger_seconds", "Time of a challenger's call, which has one row, seconds."
)
REGISTRY.register(CHALLENGER_SECONDS)
