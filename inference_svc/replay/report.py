"""What a replay found: counts by strategy, and the first cases of each kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from inference_svc.replay.instants import show

CASES = 20
"""Cases of one kind that a report names; all are counted, and a file (`--out`) has every signal."""

# What becomes of a recorded signal.
REPRODUCED: Final = "reproduced"
DIFFERS: Final = "differs"
"""Its vector, model and generation make another signal."""
UNKNOWN_MODEL: Final = "unknown_model"
"""The model that it names is not in the artifact store, or damaged there."""
VECTOR_TRIMMED: Final = "vector_trimmed"
"""Retention has taken its vector."""
CALL_TRIMMED: Final = "call_trimmed"
"""Retention has taken, or not brought yet, vectors that were in the same call of the model."""
NO_VECTOR: Final = "no_vector"
"""There is no such vector, though those before it are there."""
REPEATED: Final = "repeated"
"""A second signal of one vector."""
UNREADABLE: Final = "unreadable"
"""No Signal message."""

# Why a vector has no signal, beside `missing`, `stale` and `unusable`, and the reasons of dead letters.
WAITING: Final = "waiting"
"""It has not been scored yet."""
HELD: Final = "held"
"""It waits for the strategy, whose model could not be loaded."""
NO_MODEL: Final = "no_model"
"""The strategy had no model then."""
SIGNAL_TRIMMED: Final = "signal_trimmed"
"""Retention may have taken its signal."""
LOST: Final = "lost"
"""There should be one."""


@dataclass(frozen=True, slots=True)
class Case:
    """One signal, or one vector without one, that a report names."""

    what: str
    strategy: str
    partition: int
    entry_id: str
    """Of the signal; of the vector, for one that has no signal."""
    symbol: str
    as_of: str
    detail: str


@dataclass(slots=True)
class OfStrategy:
    """What was found of one strategy."""

    signals: Counter[str] = field(default_factory=Counter)
    """Recorded signals of the range, by what became of them."""
    without_signal: Counter[str] = field(default_factory=Counter)
    """Vectors of its feature sets that have no signal, by why."""
    other_runtime: int = 0
    """Signals that another runtime or machine made: bits may differ for no other reason."""

    @property
    def recorded(self) -> int:
        """Signals that there are."""
        return self.signals.total()


@dataclass(slots=True)
class OfModel:
    """What a model that was asked for made of the same inputs."""

    digest: str
    scored: int = 0
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """The outcome of a replay."""

    from_us: int
    to_us: int
    strategies: dict[str, OfStrategy]
    vectors: int = 0
    """Vectors of the range that the stream holds."""
    refused: Counter[str] = field(default_factory=Counter)
    """Those of them that are not what they claim to be, by reason. One that cannot be parsed counts in every range."""
    oldest_us: int | None = None
    newest_us: int | None = None
    """First and last `as_of` of what the stream holds, in the range or not."""
    model: OfModel | None = None
    cases: list[Case] = field(default_factory=list)

    def of(self, strategy: str) -> OfStrategy:
        """The part of one strategy."""
        return self.strategies.setdefault(strategy, OfStrategy())

    def extend(self, as_of_us: int) -> None:
        """Note that the stream holds a vector of this instant."""
        self.oldest_us = as_of_us if self.oldest_us is None else min(self.oldest_us, as_of_us)
        self.newest_us = as_of_us if self.newest_us is None else max(self.newest_us, as_of_us)

    def name(self, case: Case) -> None:
        """Take in a case, unless enough of its kind are named."""
        if sum(known.what == case.what for known in self.cases) < CASES:
            self.cases.append(case)

    @property
    def recorded(self) -> int:
        """Recorded signals of the range."""
        return sum(each.recorded for each in self.strategies.values())

    @property
    def reproduced(self) -> int:
        """Those that came out again to the last bit."""
        return sum(each.signals[REPRODUCED] for each in self.strategies.values())

    @property
    def lost(self) -> int:
        """Vectors whose signal should be there."""
        return sum(each.without_signal[LOST] for each in self.strategies.values())

    @property
    def sound(self) -> bool:
        """Whether all was reproduced, and it was something; or, of a model that was asked for, scored."""
        something = self.recorded > 0 or (self.model is not None and self.model.scored > 0)
        return something and self.recorded == self.reproduced and self.lost == 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        available = {"oldest_as_of": _shown(self.oldest_us), "newest_as_of": _shown(self.newest_us)}
        document: dict[str, Any] = {
            "sound": self.sound,
            "from": show(self.from_us),
            "to": show(self.to_us),
            "recorded": self.recorded,
            "reproduced": self.reproduced,
            "lost": self.lost,
            "vectors": {"in_range": self.vectors, "refused": dict(self.refused), **available},
            "strategies": {
                name: {
                    "recorded": each.recorded,
                    "signals": dict(each.signals),
                    "without_signal": dict(each.without_signal),
                    "other_runtime": each.other_runtime,
                }
                for name, each in sorted(self.strategies.items())
            },
            "cases": [{slot: getattr(case, slot) for slot in Case.__slots__} for case in self.cases],
        }
        if self.model is not None:
            document["model"] = {
                "digest": self.model.digest,
                "scored": self.model.scored,
                "faults": dict(self.model.faults),
            }
        return document


def _shown(us: int | None) -> str | None:
    return None if us is None else show(us)
