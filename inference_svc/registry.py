"""Which models this replica serves, as one immutable snapshot behind one pointer.

A lookup reads the pointer once and takes no lock; a swap builds a new snapshot and assigns it. Whoever holds a model
of the old snapshot finishes on it, so a swap fails nothing and a batch never mixes versions. All assignments happen
on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference_svc.lane import Lane
from inference_svc.model_names import DEFAULT, OfVersion, parse
from modelstore.manifest import Manifest
from runtime.errors import NotFoundError, QuantmeshError, UnavailableError

Role: TypeAlias = Literal["champion", "challenger", "previous"]

_LISTED_AT_MOST = 10


class Model(Protocol):
    """What scores rows. Safe to call from several threads."""

    @property
    def columns(self) -> int:
        """Number of features of a row."""

    @property
    def most_squares(self) -> float:
        """Rows of which the sum of all squares is below this fit its inputs for certain; 0 where it says nothing."""

    def unfit(self, rows: NDArray[np.float64], /) -> NDArray[np.bool_] | None:
        """Where values of rows [N, columns] are none that its inputs can hold; None when all fit."""

    def predict(self, rows: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Score rows of shape [N, columns]; returns shape [N]."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version in memory, warm."""

    version: str
    manifest: Manifest
    model: Model
    loaded_at_us: int
    lane: Lane = field(default_factory=Lane, compare=False)


@dataclass(frozen=True, slots=True)
class Serving:
    """What one strategy serves: the deployment at one generation, with its models in memory.

    `previous` is kept warm, so that a rollback is a swap; None when there is none, or it could not be loaded.
    `challenger_version` is the deployment's, empty for none. `challenger` is there while the shadow process has loaded
    it, which alone can score with it (`shadow`).
    """

    strategy: str
    generation: int
    champion: LoadedModel
    previous: LoadedModel | None = None
    challenger_version: str = ""
    challenger: LoadedModel | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A loaded model in its role: what a name resolves to."""

    strategy: str
    role: Role
    generation: int
    loaded: LoadedModel


class Snapshot:
    """All servings at one moment. Immutable; every name that resolves is in one table, made once."""

    __slots__ = ("_default_strategy", "_names", "servings")

    def __init__(self, servings: Mapping[str, Serving], default_strategy: str | None) -> None:
        self.servings: Mapping[str, Serving] = dict(sorted(servings.items()))
        self._default_strategy = default_strategy
        self._names: dict[str, Target] = {}
        for target in self.targets():
            # A strategy's own names come first: a digest is 64 characters that a strategy may have for a name too,
            # and then `{name}@champion` reaches the strategy.
            if target.role == "champion":
                self._names[target.strategy] = target
                self._names[f"{target.strategy}@champion"] = target
        for target in sorted(self.targets(), key=lambda target: target.role != "challenger"):
            self._names[target.loaded.version] = target  # what is in this process goes before what is beside it
        # `champion` alone is a role even when a strategy has that name.
        self._names.pop("champion", None)
        self._names.pop("challenger", None)
        for target in self.targets():
            if target.role == "challenger":
                self._names[f"{target.strategy}@challenger"] = target
        only = next(iter(self.servings)) if len(self.servings) == 1 else None
        default = self.servings.get(default_strategy or only or "")
        if default is not None:
            champion = self._names[f"{default.strategy}@champion"]
            self._names[DEFAULT] = self._names[""] = champion
            if default.challenger is not None:
                self._names["challenger"] = self._names[f"{default.strategy}@challenger"]

    def targets(self) -> Iterator[Target]:
        """Everything loaded, by strategy, then role."""
        for serving in self.servings.values():
            yield Target(serving.strategy, "champion", serving.generation, serving.champion)
            if serving.challenger is not None:
                yield Target(serving.strategy, "challenger", serving.generation, serving.challenger)
            if serving.previous is not None:
                yield Target(serving.strategy, "previous", serving.generation, serving.previous)

    def resolve(self, name: str) -> Target:
        """The model of that name.

        Raises InvalidInputError (INVALID_MODEL_NAME), UnavailableError (CHALLENGER_NOT_READY) for a challenger that the
        shadow process has not loaded, or NotFoundError: UNKNOWN_MODEL, with a list of what is loaded, or
        NO_DEFAULT_STRATEGY when `champion` alone could mean several.
        """
        target = self._names.get(name)
        if target is None:
            raise self._why_not(name)
        return target

    def _why_not(self, name: str) -> QuantmeshError:
        wanted = parse(name)
        if not self.servings:
            return NotFoundError(
                "no model is loaded yet: register one and promote it "
                "(quantmesh.mlops.v1.MlopsService: RegisterModel, then Promote)",
                reason="UNKNOWN_MODEL",
                field="model_name",
                metadata={"model_name": name},
            )
        loaded = _listed([f"{t.strategy}@{t.role} ({t.loaded.version[:12]})" for t in self.targets()])
        if isinstance(wanted, OfVersion):
            what = f"version {wanted.version} is not loaded"
        elif wanted.strategy is None and self._default_strategy is None and len(self.servings) > 1:
            strategies = _listed(list(self.servings))
            return NotFoundError(
                f"{name or DEFAULT!r} alone could mean any of {strategies}: name the strategy, or set "
                "QUANTMESH_DEFAULT_STRATEGY",
                reason="NO_DEFAULT_STRATEGY",
                field="model_name",
                metadata={"model_name": name, "strategies": strategies},
            )
        elif (strategy := wanted.strategy or self._default_strategy or next(iter(self.servings))) in self.servings:
            if wanted.alias == "challenger" and self.servings[strategy].challenger_version:
                return not_ready(strategy)
            what = f"strategy {strategy!r} has no {wanted.alias}"
        else:
            by = " (QUANTMESH_DEFAULT_STRATEGY)" if wanted.strategy is None else ""
            what = f"strategy {strategy!r}{by} has no model here"
        return NotFoundError(
            f"{what}; loaded: {loaded}",
            reason="UNKNOWN_MODEL",
            field="model_name",
            metadata={"model_name": name, "loaded": loaded},
        )


def not_ready(strategy: str) -> UnavailableError:
    """The error of a challenger that is deployed, and cannot be scored with at the moment."""
    return UnavailableError(
        f"the challenger of {strategy!r} is not ready here: `quantmesh status --json` says why",
        reason="CHALLENGER_NOT_READY",
        retry_after_s=1.0,
    )


def _listed(names: Sequence[str]) -> str:
    """Names for an error, not more than its gRPC trailer can carry."""
    more = f" and {len(names) - _LISTED_AT_MOST} more" if len(names) > _LISTED_AT_MOST else ""
    return ", ".join(names[:_LISTED_AT_MOST]) + more


class Registry:
    """The pointer."""

    __slots__ = ("_default_strategy", "current")

    def __init__(self, default_strategy: str | None = None) -> None:
        self._default_strategy = default_strategy
        self.current = Snapshot({}, default_strategy)

    def swap(self, serving: Serving) -> None:
        """Serve this from the next lookup on."""
        self.current = Snapshot({**self.current.servings, serving.strategy: serving}, self._default_strategy)
