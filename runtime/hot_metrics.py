"""Counters and histograms for hot paths: plain numbers that one thread adds to, and a scrape reads.

Those of prometheus_client take a lock for each number, for threads that an event loop does not have: five of them are a
tenth of a call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Series = TypeVar("Series")


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add."""
        self.value += amount


class Durations:
    """One series of a histogram of seconds: how many by bucket, the last of which is for what is above all bounds."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Add."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds

    def add(self, counts: Sequence[int], sum_s: float) -> None:
        """Add what another process has counted in the same buckets."""
        for bucket, count in enumerate(counts):
            self.counts[bucket] += count
        self.sum_s += sum_s

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets, as Prometheus has them, and the sum."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True)), self.sum_s


class _Labelled(Collector, Generic[Series]):
    """Series by the values of their labels, which are to be closed sets."""

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = labelnames
        self._series: dict[tuple[str, ...], Series] = {}
        REGISTRY.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these values."""
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = self._make()
        return found

    def _make(self) -> Series:
        raise NotImplementedError


class HotCounter(_Labelled[Count]):
    """A counter."""

    def _make(self) -> Count:
        return Count()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """All series."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for values, series in list(self._series.items()):
            family.add_metric(values, series.value)
        yield family


class HotHistogram(_Labelled[Durations]):
    """A histogram of seconds."""

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str], buckets: Sequence[float]) -> None:
        self._buckets = tuple(map(float, buckets))
        super().__init__(name, documentation, labelnames)

    def _make(self) -> Durations:
        return Durations(self._buckets)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for values, series in list(self._series.items()):
            family.add_metric(values, *series.told())
        yield family
