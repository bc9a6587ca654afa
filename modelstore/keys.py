"""Every Redis key of modelstore. All share one hash tag, so that one script may touch them together on a cluster."""

from __future__ import annotations

DEPLOYMENTS = "deployments:{mlops}"
"""Hash: strategy -> serialized quantmesh.mlops.v1.Deployment."""

EVENTS = "mlops.events:{mlops}"
"""Redis stream of quantmesh.mlops.v1.DeploymentEvent, in the fields that all streams of the mesh have."""

CHANGED = "deployments.changed:{mlops}"
"""Channel: the strategy whose deployment changed."""

REPLICAS = "replicas:{mlops}"
"""Sorted set: replica id by the time, in milliseconds, until which its report counts."""

REPORTS = "replicas.reports:{mlops}"
"""Hash: replica id -> its report, as JSON."""

LAYOUTS = "feature_layouts:{mlops}"
"""Hash: feature set -> its feature names in order, as JSON."""


def request(request_id: str) -> str:
    """Hash of a request that was carried out: digest of its content, and the deployment that it answered."""
    return f"request:{{mlops}}:{request_id}"
