"""What a strategy serves, and the steps from one deployment to the next: pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from runtime.errors import FailedPreconditionError, NotFoundError


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a strategy serves; see `quantmesh.mlops.v1.Deployment`.

    `generation` grows with each change. After Redis lost its last writes the same number may come again for another
    champion: whoever compares two deployments compares both.
    """

    strategy: str
    champion_version: str = ""
    previous_version: str = ""
    generation: int = 0
    updated_at_us: int = 0
    reason: str = ""
    challenger_version: str = ""


Transition: TypeAlias = Callable[[Deployment | None], Deployment]
"""From the present deployment (None: there is none) to the next one's versions; raises when there is no such step."""


def promoted(present: Deployment | None, strategy: str, version: str) -> Deployment:
    """The step of a promotion. Raises FailedPreconditionError (reason ALREADY_CHAMPION)."""
    before = present or Deployment(strategy)
    if before.champion_version == version:
        raise FailedPreconditionError(
            f"{version} is the champion of {strategy!r} already (generation {before.generation})",
            reason="ALREADY_CHAMPION",
            field="version",
            metadata={"strategy": strategy, "generation": str(before.generation)},
        )
    return _with_champion(before, version)


def rolled_back(present: Deployment | None, strategy: str) -> Deployment:
    """The step of a rollback: champion and previous change places.

    Raises NotFoundError (reason UNKNOWN_STRATEGY), FailedPreconditionError (reason NO_PREVIOUS).
    """
    if present is None:
        raise unknown_strategy(strategy)
    if not present.previous_version:
        raise FailedPreconditionError(
            f"{strategy!r} has no previous champion to go back to: it was promoted once only",
            reason="NO_PREVIOUS",
            field="strategy",
            metadata={"strategy": strategy, "generation": str(present.generation)},
        )
    return _with_champion(present, present.previous_version)


def shadowed(present: Deployment | None, strategy: str, version: str) -> Deployment:
    """The step of a challenger's start, in place of the one before, if there was one.

    Raises NotFoundError (reason UNKNOWN_STRATEGY), FailedPreconditionError (ALREADY_CHAMPION, ALREADY_CHALLENGER).
    """
    if present is None:
        raise unknown_strategy(strategy)
    for role, reason in (("champion", "ALREADY_CHAMPION"), ("challenger", "ALREADY_CHALLENGER")):
        if version == getattr(present, f"{role}_version"):
            raise FailedPreconditionError(
                f"{version} is the {role} of {strategy!r} already (generation {present.generation})",
                reason=reason,
                field="version",
                metadata={"strategy": strategy, "generation": str(present.generation)},
            )
    return replace(present, challenger_version=version)


def unshadowed(present: Deployment | None, strategy: str) -> Deployment:
    """The step of a challenger's end.

    Raises NotFoundError (reason UNKNOWN_STRATEGY), FailedPreconditionError (NO_CHALLENGER).
    """
    if present is None:
        raise unknown_strategy(strategy)
    if not present.challenger_version:
        raise FailedPreconditionError(
            f"{strategy!r} has no challenger: there is nothing to stop",
            reason="NO_CHALLENGER",
            field="strategy",
            metadata={"strategy": strategy, "generation": str(present.generation)},
        )
    return replace(present, challenger_version="")


def _with_champion(before: Deployment, version: str) -> Deployment:
    """Another champion; a challenger that it is, it is no more."""
    challenger = before.challenger_version
    return replace(
        before,
        champion_version=version,
        previous_version=before.champion_version,
        challenger_version="" if challenger == version else challenger,
    )


def unknown_strategy(strategy: str) -> NotFoundError:
    """The error of a strategy that has no deployment."""
    return NotFoundError(
        f"strategy {strategy!r} has no deployment: promote a version first",
        reason="UNKNOWN_STRATEGY",
        field="strategy",
        metadata={"strategy": strategy},
    )


def check_generation(strategy: str, present: Deployment | None, expected_generation: int | None) -> None:
    """Raise FailedPreconditionError (STALE_GENERATION) when a deployment is not at the generation that is expected."""
    generation = present.generation if present else 0
    if expected_generation is not None and expected_generation != generation:
        raise FailedPreconditionError(
            f"{strategy!r} is at generation {generation}, not {expected_generation}: look at it again, then decide",
            reason="STALE_GENERATION",
            field="expected_generation",
            metadata={
                "strategy": strategy,
                "generation": str(generation),
                "expected_generation": str(expected_generation),
            },
        )
