"""The steps of a deployment, as pure functions."""

from __future__ import annotations

import pytest

from modelstore.deployments import Deployment, promoted, rolled_back
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
