"""How a caller names a model. Pure text: what is loaded under a name is the registry's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from modelstore.names import is_digest, is_strategy
from runtime.errors import InvalidInputError

Alias: TypeAlias = Literal["champion", "challenger"]

FIELD = "model_name"
DEFAULT = "champion"
"""What an empty name means."""

_ALIASES = ("champion", "challenger")


@dataclass(frozen=True, slots=True)
class OfStrategy:
    """One role of a strategy's deployment; strategy None is the default strategy."""

    strategy: str | None
    alias: Alias


@dataclass(frozen=True, slots=True)
class OfVersion:
    """One version, by its digest."""

    version: str


ModelName: TypeAlias = OfStrategy | OfVersion


def parse(name: str) -> ModelName:
    """Read a model name.

    `champion` and `challenger` alone are roles, even if a strategy should have that name: `champion@champion` reaches
    it. 64 hexadecimal characters alone are a digest. Raises InvalidInputError (INVALID_MODEL_NAME).
    """
    name = name or DEFAULT
    if name in _ALIASES:
        return OfStrategy(None, cast(Alias, name))
    if is_digest(name):
        return OfVersion(name)
    strategy, at, alias = name.partition("@")
    if not is_strategy(strategy) or (at and alias not in _ALIASES):
        raise InvalidInputError.of_field(
            FIELD,
            f"{name[:80]!r} is not a model name: use champion, challenger, {{strategy}}, {{strategy}}@champion, "
            "{strategy}@challenger or a version digest (64 lower-case hexadecimal characters)",
            reason="INVALID_MODEL_NAME",
        )
    return OfStrategy(strategy, cast(Alias, alias) if at else "champion")
