"""What the limit of `runtime.envoy.limit` does, for Prometheus: Python is not told of the calls that it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from runtime.envoy.admin import ask
from runtime.envoy.values import PUBLIC

_PREFIX = f"http.{PUBLIC}.adaptive_concurrency.gradient_controller."
_REFUSED, _LIMIT = f"{_PREFIX}rq_blocked", f"{_PREFIX}concurrency_limit"


class LimitMetrics(Collector):
    """Asks Envoy when it is asked; says nothing of what Envoy does not tell."""

    def __init__(self, admin: str) -> None:
        """`admin` is the Unix socket of Envoy's admin interface."""
        self._admin = admin

    def describe(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics, without asking."""
        yield CounterMetricFamily(
            "quantmesh_surplus_calls_refused",
            "Calls refused as one more than can be answered in time.",
        )
        yield GaugeMetricFamily("quantmesh_calls_limit", "Calls that may be in flight at the moment.")

    def collect(self) -> Iterator[Metric]:
        """The metrics. Runs on the thread of a scrape, and waits there."""
        try:
            told = asyncio.run(ask(self._admin, "GET", f"/stats?filter={quote(_PREFIX)}"))
        except (OSError, TimeoutError):
            return
        values = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
        for metric, name in zip(self.describe(), (_REFUSED, _LIMIT), strict=True):
            if name in values:
                metric.add_metric([], float(values[name]))
                yield metric
