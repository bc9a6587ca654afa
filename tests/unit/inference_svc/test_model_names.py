"""How models are named."""

from __future__ import annotations

import pytest

from inference_svc.model_names import ModelName, OfStrategy, OfVersion, parse
from runtime.errors import InvalidInputError


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("", OfStrategy(None, "champion")),
        ("champion", OfStrategy(None, "champion")),
        ("challenger", OfStrategy(None, "challenger")),
        ("momentum", OfStrategy("momentum", "champion")),
        ("momentum@champion", OfStrategy("momentum", "champion")),
        ("momentum@challenger", OfStrategy("momentum", "challenger")),
        ("champion@champion", OfStrategy("champion", "champion")),
        ("ab" * 32, OfVersion("ab" * 32)),
        ("ab" * 32 + "@champion", OfStrategy("ab" * 32, "champion")),
        ("a" * 63, OfStrategy("a" * 63, "champion")),
    ],
)
def test_a_name_has_one_meaning(name: str, meaning: ModelName) -> None:
    assert parse(name) == meaning


@pytest.mark.parametrize(
    "name",
    ["Momentum", "a b", "momentum@", "@champion", "momentum@previous", "a@b@champion", "é", "a" * 65, "AB" * 32, "a\n"],
)
def test_anything_else_is_refused_by_field(name: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse(name)
    assert raised.value.reason == "INVALID_MODEL_NAME"
    assert [violation.field for violation in raised.value.violations] == ["model_name"]
