"""Feature sets are checked when they are read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from feature_svc.feature_sets import Feature, FeatureSet, load_feature_sets
from runtime.errors import NotFoundError

SESSIONS = load_feature_sets().get("equities_daily").sessions
A = Feature(name="a", ttl_days=4, policy="latest_known", clocked=True)


def test_the_default_set() -> None:
    found = load_feature_sets().get("equities_daily")
    assert len(found.universe) == 20
    assert all(feature.ttl_us == 4 * 86_400_000_000 and feature.clocked for feature in found.features)


def test_an_unknown_set_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="equities_daily") as caught:
        load_feature_sets().get("nope")
    assert caught.value.reason == "UNKNOWN_FEATURE_SET"


@pytest.mark.parametrize(
    ("universe", "features", "what"),
    [
        (("X", "X"), (A,), "symbol twice"),
        (("X",), (A, A), "feature twice"),
        (("X",), (A.model_copy(update={"clocked": False}),), "no clocked feature"),
        ((), (A,), "at least 1"),
    ],
)
def test_unsound_sets_are_refused(universe: tuple[str, ...], features: tuple[Feature, ...], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        FeatureSet(name="s", universe=universe, sessions=SESSIONS, features=features)


@pytest.mark.parametrize("change", [{"name": "Not Snake"}, {"ttl_days": -1}, {"policy": "newest"}, {"typo": 1}])
def test_bad_features_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Feature.model_validate(A.model_dump() | change)
