"""The manifest: every bound is held, every fault is told by its path, and its JSON is one spelling."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstore.manifest import Manifest, of_document, to_json, validate
from runtime.errors import InvalidInputError

GOOD = Manifest(
    name="ridge",
    strategy="us_equities",
    feature_set="equities_daily",
    feature_names=("momentum_5d", "volatility_20d"),
    prediction_unit="fraction",
    signal_threshold=0.001,
    training_data_sha256="a" * 64,
    training_cutoff_us=1_500_000_000_000_000,
    metrics={"train_r2": 0.02},
)

any_manifest = st.builds(
    Manifest,
    name=st.text(min_size=1, max_size=128),
    strategy=st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True),
    feature_set=st.text(min_size=1, max_size=128),
    feature_names=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True).map(tuple),
    prediction_unit=st.text(min_size=1, max_size=64),
    signal_threshold=st.floats(min_value=0, allow_infinity=False),
    framework=st.text(max_size=128),
    training_data_sha256=st.just("") | st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    training_cutoff_us=st.none() | st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    code_version=st.text(max_size=128),
    seed=st.integers(0, 2**64 - 1),
    trial_count=st.integers(1, 2**32 - 1),
    metrics=st.dictionaries(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False), max_size=5),
)


@given(any_manifest)
def test_a_manifest_within_bounds_is_valid_and_survives_json(manifest: Manifest) -> None:
    validate(manifest)
    assert of_document(json.loads(to_json(manifest))) == manifest


@given(any_manifest, st.randoms(use_true_random=False))
def test_json_is_canonical_whatever_the_order_of_the_metrics(manifest: Manifest, random: Any) -> None:
    shuffled = list(manifest.metrics.items())
    random.shuffle(shuffled)
    assert to_json(replace(manifest, metrics=dict(shuffled))) == to_json(manifest)


def test_json_does_not_tell_an_integer_from_the_same_float() -> None:
    whole = replace(GOOD, signal_threshold=0, metrics={"depth": 3})
    assert to_json(whole) == to_json(replace(GOOD, signal_threshold=0.0, metrics={"depth": 3.0}))


def test_json_has_one_spelling() -> None:
    data = to_json(replace(GOOD, name="é"))
    assert data.isascii()
    assert b'": ' not in data
    assert data.startswith(b'{"code_version":')


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "manifest.name"),
        ({"name": "x" * 129}, "manifest.name"),
        ({"strategy": ""}, "manifest.strategy"),
        ({"strategy": "US_Equities"}, "manifest.strategy"),
        ({"strategy": "x" * 65}, "manifest.strategy"),
        ({"strategy": "a\n"}, "manifest.strategy"),
        ({"feature_set": ""}, "manifest.feature_set"),
        ({"feature_names": ()}, "manifest.feature_names"),
        ({"feature_names": tuple(str(n) for n in range(4097))}, "manifest.feature_names"),
        ({"feature_names": ("a", "b", "a")}, "manifest.feature_names[2]"),
        ({"feature_names": ("a", "")}, "manifest.feature_names[1]"),
        ({"prediction_unit": ""}, "manifest.prediction_unit"),
        ({"signal_threshold": -0.1}, "manifest.signal_threshold"),
        ({"signal_threshold": math.nan}, "manifest.signal_threshold"),
        ({"signal_threshold": math.inf}, "manifest.signal_threshold"),
        ({"framework": "x" * 129}, "manifest.framework"),
        ({"training_data_sha256": "A" * 64}, "manifest.training_data_sha256"),
        ({"training_cutoff_us": 253_402_300_800_000_000}, "manifest.training_cutoff"),
        ({"code_version": "x" * 129}, "manifest.code_version"),
        ({"seed": -1}, "manifest.seed"),
        ({"seed": 2**64}, "manifest.seed"),
        ({"trial_count": 0}, "manifest.trial_count"),
        ({"metrics": {"train_r2": math.nan}}, "manifest.metrics[train_r2]"),
    ],
)
def test_a_value_out_of_bounds_is_told_by_its_path(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(replace(GOOD, **change))
    assert [violation.field for violation in caught.value.violations] == [field]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(replace(GOOD, name="", trial_count=0))
    assert [violation.field for violation in caught.value.violations] == ["manifest.name", "manifest.trial_count"]


@pytest.mark.parametrize("document", [None, 7, [], {}, {"name": "x"}, {**json.loads(to_json(GOOD)), "more": 1}])
def test_what_is_not_a_manifest_is_refused(document: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        of_document(document)
    assert caught.value.reason == "NOT_A_MANIFEST"
