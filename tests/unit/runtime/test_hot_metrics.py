"""Hot metrics say what prometheus_client's own would."""

from __future__ import annotations

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

from runtime.hot_metrics import HotCounter, HotHistogram

BUCKETS = (0.001, 0.01, 0.5, 1)


def lines(registry: CollectorRegistry) -> list[str]:
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\\', "c"]), st.sampled_from([*BUCKETS, 0.0, 0.0101, 2.0]))))
def test_they_say_what_the_librarys_own_would(seen: list[tuple[str, float]]) -> None:
    name = f"quantmesh_test_{uuid4().hex}"
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counter = HotCounter(f"{name}_total", "How many.", ["kind", "code"])
    histogram = HotHistogram(f"{name}_seconds", "How long.", ["kind"], BUCKETS)
    for collector in (counter, histogram):
        REGISTRY.unregister(collector)
        ours.register(collector)
    usual_counter = Counter(f"{name}_total", "How many.", ["kind", "code"], registry=theirs)
    usual_histogram = Histogram(f"{name}_seconds", "How long.", ["kind"], buckets=BUCKETS, registry=theirs)
    for kind, seconds in seen:
        counter.labels(kind, "OK").inc()
        counter.labels(kind, "INTERNAL").inc(3)
        histogram.labels(kind).observe(seconds)
        usual_counter.labels(kind, "OK").inc()
        usual_counter.labels(kind, "INTERNAL").inc(3)
        usual_histogram.labels(kind).observe(seconds)
    assert lines(ours) == lines(theirs)
