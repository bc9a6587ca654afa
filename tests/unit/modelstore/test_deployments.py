"""The steps of a deployment, as pure functions."""

from __future__ import annotations

import pytest

from modelstore.deployment import Deployment, promoted, rolled_back, shadowed, unshadowed
from runtime.errors import FailedPreconditionError, NotFoundError

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_a_promotion_keeps_the_old_champion_as_previous() -> None:
    first = promoted(None, "s", A)
    assert (first.champion_version, first.previous_version) == (A, "")
    second = promoted(first, "s", B)
    assert (second.champion_version, second.previous_version) == (B, A)


def test_promoting_the_champion_is_refused() -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        promoted(Deployment("s", A, B, generation=4), "s", A)
    assert caught.value.reason == "ALREADY_CHAMPION"


def test_promoting_the_previous_one_makes_them_change_places() -> None:
    after = promoted(Deployment("s", A, B), "s", B)
    assert (after.champion_version, after.previous_version) == (B, A)


def test_a_rollback_makes_champion_and_previous_change_places() -> None:
    after = rolled_back(Deployment("s", A, B), "s")
    assert (after.champion_version, after.previous_version) == (B, A)


def test_a_rollback_needs_a_deployment_and_a_previous_champion() -> None:
    with pytest.raises(NotFoundError) as unknown:
        rolled_back(None, "s")
    assert unknown.value.reason == "UNKNOWN_STRATEGY"
    with pytest.raises(FailedPreconditionError) as first:
        rolled_back(Deployment("s", A, generation=1), "s")
    assert first.value.reason == "NO_PREVIOUS"


def test_a_challenger_is_replaced_by_another_and_taken_away() -> None:
    first = shadowed(Deployment("s", A), "s", B)
    assert (first.champion_version, first.challenger_version) == (A, B)
    second = shadowed(first, "s", C)
    assert second.challenger_version == C
    assert unshadowed(second, "s") == Deployment("s", A)


def test_a_challenger_needs_a_champion_and_is_neither_it_nor_there_already() -> None:
    with pytest.raises(NotFoundError) as unknown:
        shadowed(None, "s", A)
    assert unknown.value.reason == "UNKNOWN_STRATEGY"
    for version, reason in ((A, "ALREADY_CHAMPION"), (B, "ALREADY_CHALLENGER")):
        with pytest.raises(FailedPreconditionError) as refused:
            shadowed(Deployment("s", A, challenger_version=B), "s", version)
        assert (refused.value.reason, refused.value.violations[0].field) == (reason, "version")


def test_there_must_be_a_challenger_to_take_away() -> None:
    with pytest.raises(NotFoundError) as unknown:
        unshadowed(None, "s")
    assert unknown.value.reason == "UNKNOWN_STRATEGY"
    with pytest.raises(FailedPreconditionError) as nothing:
        unshadowed(Deployment("s", A), "s")
    assert (nothing.value.reason, nothing.value.violations[0].field) == ("NO_CHALLENGER", "strategy")


@pytest.mark.parametrize(("promoted_version", "left"), [(B, ""), (C, B)])
def test_a_challenger_that_is_promoted_is_none_any_more_and_another_stays(promoted_version: str, left: str) -> None:
    after = promoted(Deployment("s", A, challenger_version=B), "s", promoted_version)
    assert (after.champion_version, after.previous_version, after.challenger_version) == (promoted_version, A, left)


@pytest.mark.parametrize(("challenger", "left"), [(B, ""), (C, C)])
def test_a_rollback_keeps_the_challenger_unless_it_becomes_champion(challenger: str, left: str) -> None:
    after = rolled_back(Deployment("s", A, B, challenger_version=challenger), "s")
    assert (after.champion_version, after.challenger_version) == (B, left)
