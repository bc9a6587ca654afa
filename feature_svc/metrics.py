"""Prometheus metrics of feature_svc. What a step does is counted when it is done; a step done again counts again."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

VIOLATIONS = Counter(
    "quantmesh_feature_pit_violations_total", "Raw features that break a point-in-time rule, by reason.", ["reason"]
)
VECTORS = Counter(
    "quantmesh_feature_vectors_total",
    "Feature vectors made, by the worst status of their values: OK, STALE or MISSING.",
    ["feature_set", "status"],
)
LATE = Counter("quantmesh_feature_late_records_total", "Raw features that came after their vector was served.")
REPEATED = Counter("quantmesh_feature_repeated_records_total", "Raw features that were known already.")
CROSS_SECTIONS = Counter("quantmesh_feature_cross_sections_total", "Sessions closed and published.")
BAD_TICKS = Counter("quantmesh_feature_bad_ticks_total", "Ticks that were refused, by reason.", ["reason"])
SKIPPED_TICKS = Counter(
    "quantmesh_feature_skipped_ticks_total",
    "Ticks that no feature is made of: INTRADAY prints, closes that are REPEATED, UNKNOWN_SYMBOL outside the universe.",
    ["reason"],
)
OPEN_SESSIONS = Gauge("quantmesh_feature_open_sessions", "Sessions that wait for symbols.")
BEHIND_S = Gauge(
    "quantmesh_feature_behind_seconds",
    "From the oldest session that waits for symbols to the newest session, in event time; 0 when none waits.",
)
