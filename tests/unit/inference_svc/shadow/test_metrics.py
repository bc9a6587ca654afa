"""The histogram of another process's calls, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from inference_svc.metrics import CallSeconds
from inference_svc.shadow.counts import Counts


def test_calls_of_several_reports_add_up() -> None:
    registry, seen = CollectorRegistry(), CallSeconds("challenger_seconds", "Calls.")
    registry.register(seen)
    for report in ((0.00001, 0.5), (0.0000101, 100.0)):
        counts = Counts()
        for seconds in report:
            counts.of("momentum").called(seconds)
        counted = counts.take()["momentum"]
        seen.add("momentum", counted["calls"], counted["seconds"])

    def value(bound: str) -> float | None:
        return registry.get_sample_value("challenger_seconds_bucket", {"strategy": "momentum", "le": bound})

    assert [value(bound) for bound in ("1e-05", "2.5e-05", "0.1", "1", "10", "+Inf")] == [1, 2, 2, 3, 3, 4]
    assert registry.get_sample_value("challenger_seconds_count", {"strategy": "momentum"}) == 4
    assert "challenger_seconds_sum" in generate_latest(registry).decode()
