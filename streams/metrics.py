"""Prometheus metrics of the fabric. Labels come from the catalog and from closed sets."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

PRODUCED = Counter("quantmesh_stream_produced_total", "Records appended by producers.", ["stream"])
DUPLICATES = Counter("quantmesh_stream_duplicates_total", "Records refused because they were there.", ["stream"])
DROPPED = Counter("quantmesh_stream_dropped_total", "Oldest records dropped by a drop_oldest stream.", ["stream"])
CONSUMED = Counter("quantmesh_stream_consumed_total", "Records committed.", ["stream", "group"])
REFUSED = Counter("quantmesh_stream_commits_refused_total", "Commits refused, by cause.", ["stream", "group", "cause"])
DEAD = Counter("quantmesh_stream_dead_letters_total", "Records given up on, by reason.", ["stream", "group", "reason"])
LAG_SECONDS = Histogram(
    "quantmesh_stream_lag_seconds",
    "Age of the oldest record of a batch when it is committed, seconds.",
    ["stream", "group"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 5, 30),
)
