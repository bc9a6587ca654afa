"""Pages of deployments."""

from __future__ import annotations

import pytest

from mlops_svc.listing import page
from modelstore.deployments import Deployment
from runtime.errors import InvalidInputError

ALL = [Deployment(name) for name in ("alpha", "beta", "delta", "gamma")]


def test_pages_cover_everything_once_and_the_last_has_no_token() -> None:
    first, token = page(ALL, 3, "")
    second, end = page(ALL, 3, token)
    assert first + second == ALL
    assert (token, end) == ("delta", "")


def test_a_page_that_ends_with_the_last_one_has_no_token() -> None:
    assert page(ALL, 4, "") == (ALL, "")
    assert page([], 0, "") == ([], "")


def test_the_token_stands_though_its_strategy_is_gone() -> None:
    shown, _ = page(ALL, 0, "carrot")
    assert [deployment.strategy for deployment in shown] == ["delta", "gamma"]


def test_the_default_page_has_a_hundred() -> None:
    many = [Deployment(f"s{n:03}") for n in range(101)]
    shown, token = page(many, 0, "")
    assert (len(shown), token) == (100, "s099")


@pytest.mark.parametrize(("size", "token", "field"), [(1001, "", "page_size"), (1, "Not a token!", "page_token")])
def test_bad_arguments_are_refused(size: int, token: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        page(ALL, size, token)
    assert [violation.field for violation in caught.value.violations] == [field]
