"""The operator's side of the fabric: look at streams, verify them, care for groups and dead letters, watch the lag.

Everything here stands beside the work of producers and processors; nothing of theirs depends on it.
"""

from streams.operations.audit import Audit, verify
from streams.operations.inspect import Lag, current_lag
from streams.operations.lag import LagHook, LagMonitor

__all__ = ["Audit", "Lag", "LagHook", "LagMonitor", "current_lag", "verify"]
