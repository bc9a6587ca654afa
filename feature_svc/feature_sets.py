"""Feature sets: which features make up a vector, in what order, by what rules. Read from feature_sets.yaml, once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from feature_svc.pit import Policy
from feature_svc.sessions import DailySessions
from runtime.errors import NotFoundError

_YAML = Path(__file__).with_name("feature_sets.yaml")
_DAY_US = 86_400_000_000
_NAME = r"^[a-z][a-z0-9_]{0,127}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Feature(_Strict):
    """One feature of a set."""

    name: str = Field(pattern=_NAME)
    ttl_days: float = Field(ge=0, description="Age from which a value is STALE, days from its event time; 0: never.")
    policy: Policy = Field(description="Which of several prints of one value counts.")
    clocked: bool = Field(description="A new event time of this feature calls for a new vector.")

    @property
    def ttl_us(self) -> int:
        """Time to live, microseconds; 0: for ever."""
        return round(self.ttl_days * _DAY_US)


class FeatureSet(_Strict):
    """The layout of a vector."""

    name: str = Field(pattern=_NAME)
    universe: tuple[str, ...] = Field(min_length=1, description="Symbols of the cross-section, in order.")
    sessions: DailySessions = Field(description="The closes that the features are made of.")
    features: tuple[Feature, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_sound(self) -> FeatureSet:
        if len(set(self.universe)) < len(self.universe):
            raise ValueError(f"set {self.name} has a symbol twice")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"set {self.name} has a feature twice")
        if not any(feature.clocked for feature in self.features):
            raise ValueError(f"set {self.name} has no clocked feature, so it would never make a vector")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names, in the order of a vector's values."""
        return tuple(feature.name for feature in self.features)


class _Entry(_Strict):
    universe: tuple[str, ...]
    sessions: DailySessions
    features: tuple[Feature, ...]


class _File(RootModel[dict[str, _Entry]]):
    """The file: set name → entry."""


class FeatureSets:
    """All sets, by name."""

    def __init__(self, sets: tuple[FeatureSet, ...]) -> None:
        self._sets = {feature_set.name: feature_set for feature_set in sets}
        self.feature_names = frozenset(name for feature_set in sets for name in feature_set.names)
        """Features that are in at least one set."""
        self.symbols = frozenset(symbol for feature_set in sets for symbol in feature_set.universe)
        """Symbols that are in at least one universe."""

    def __iter__(self) -> Iterator[FeatureSet]:
        return iter(self._sets.values())

    def get(self, name: str) -> FeatureSet:
        """One set. Raises NotFoundError (reason UNKNOWN_FEATURE_SET)."""
        found = self._sets.get(name)
        if found is None:
            raise NotFoundError(
                f"no feature set {name[:128]!r}; there are: {', '.join(self._sets)}",
                reason="UNKNOWN_FEATURE_SET",
                field="feature_set",
            )
        return found


@cache
def load_feature_sets() -> FeatureSets:
    """The sets of feature_sets.yaml."""
    file = _File.model_validate(yaml.safe_load(_YAML.read_text()))
    return FeatureSets(tuple(FeatureSet(name=name, **dict(entry)) for name, entry in file.root.items()))
