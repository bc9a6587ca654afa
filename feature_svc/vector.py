"""The feature vector: what was known of one symbol as of one instant. Made here for the stream and for online reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from feature_svc.feature_sets import FeatureSet
from feature_svc.pit import History, Policy, Status, status_of

_NOTHING_KNOWN = History()


class FeatureVector(NamedTuple):
    """One vector; the tuples are in the order of the set. Where the status is MISSING: NaN and zeroes."""

    symbol: str
    feature_set: str
    event_time_us: int | None
    """The newest event time of the clocked features; None when all of them are missing."""
    as_of_us: int
    max_available_at_us: int | None
    """The latest `available_at` of any value: the proof of no look-ahead. None when all are missing."""
    values: tuple[float, ...]
    statuses: tuple[Status, ...]
    value_event_times_us: tuple[int, ...]
    value_available_at_us: tuple[int, ...]


class _Rule(NamedTuple):
    name: str
    ttl_us: int
    policy: Policy
    clocked: bool


class VectorRules:
    """The rules of one feature set, laid out for the hot path."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self.name = feature_set.name
        self.clocked = frozenset(feature.name for feature in feature_set.features if feature.clocked)
        self._rules = tuple(
            _Rule(feature.name, feature.ttl_us, feature.policy, feature.clocked) for feature in feature_set.features
        )

    def vector(self, symbol: str, histories: Mapping[str, History], as_of_us: int) -> FeatureVector:
        """What the histories (by feature name) know as of an instant."""
        event_time_us = max_available_at_us = None
        values, statuses, event_times, availables = [], [], [], []
        for name, ttl_us, policy, clocked in self._rules:
            found = histories.get(name, _NOTHING_KNOWN).select(as_of_us, policy)
            statuses.append(status_of(found, as_of_us, ttl_us))
            if found is None:
                values.append(math.nan)
                event_times.append(0)
                availables.append(0)
                continue
            event_us, available_us, _, _, value = found
            values.append(value)
            event_times.append(event_us)
            availables.append(available_us)
            if max_available_at_us is None or available_us > max_available_at_us:
                max_available_at_us = available_us
            if clocked and (event_time_us is None or event_us > event_time_us):
                event_time_us = event_us
        return FeatureVector(
            symbol,
            self.name,
            event_time_us,
            as_of_us,
            max_available_at_us,
            tuple(values),
            tuple(statuses),
            tuple(event_times),
            tuple(availables),
        )
