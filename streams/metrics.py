"""Prometheus metrics of the fabric. Labels come from the catalog and from closed sets.

Rates are the rates of the counters: records produced and consumed per second.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PRODUCED = Counter("quantmesh_stream_produced_total", "Records appended by producers.", ["stream"])
DUPLICATES = Counter("quantmesh_stream_duplicates_total", "Records refused because they were there.", ["stream"])
DROPPED = Counter("quantmesh_stream_dropped_total", "Oldest records dropped by a drop_oldest stream.", ["stream"])
CONSUMED = Counter("quantmesh_stream_consumed_total", "Records committed.", ["stream", "group"])
REFUSED = Counter(
    "quantmesh_stream_commits_refused_total",
    "Commits refused, by cause: LEASE_LOST (a zombie was fenced), OFFSET_MOVED, FENCED (an old generation), FULL.",
    ["stream", "group", "cause"],
)
DEAD = Counter("quantmesh_stream_dead_letters_total", "Records given up on, by reason.", ["stream", "group", "reason"])
LAG_SECONDS = Histogram(
    "quantmesh_stream_end_to_end_seconds",
    "End-to-end latency: from the append of the oldest record of a batch to the commit of what became of it, seconds.",
    ["stream", "group"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 5, 30),
)
REBALANCES = Counter("quantmesh_stream_rebalances_total", "Partitions that were taken.", ["stream", "group"])

# Set by streams.operations.LagMonitor, for the streams and groups it is given. NaN while Redis cannot be asked.
LAG_RECORDS = Gauge("quantmesh_stream_lag_records", "Records that a group has yet to commit.", ["stream", "group"])
LAG_MS = Gauge(
    "quantmesh_stream_lag_ms", "Age of the oldest record that a group has yet to commit, ms.", ["stream", "group"]
)
PENDING = Gauge(
    "quantmesh_stream_pending",
    "Records taken from a work queue and not acknowledged yet. A group that owns partitions has none.",
    ["stream", "group"],
)
LAG_ALERTS = Counter(
    "quantmesh_stream_lag_alerts_total", "Times that a group's lag went over stream_max_lag_ms.", ["stream", "group"]
)
