"""The checker: counts effects, never keys of Redis. Pure.

An effect is one output record. What must hold: each published record has its effect once, the effects of one key come
in the order of publication, and the running count that the transform keeps as its state agrees with the effects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Identity = tuple[str, int]
"""Key, and place of the record among those of its key: 1, 2, 3 …"""


@dataclass(frozen=True, slots=True)
class Effect:
    """An output record, as found."""

    key: str
    number: int
    counted: int | None = None
    """Value of the transform's running count for the key when it made this; None where it keeps none."""

    @classmethod
    def of(cls, payload: bytes) -> Effect:
        """From `key|number`, `key|number|count`, and whatever padding follows."""
        key, number, *rest = payload.split(b"|", 3)
        return cls(key.decode(), int(number), int(rest[0]) if rest and rest[0] else None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the effects say. All zeros is what is promised."""

    records: int = 0
    lost: int = 0
    duplicated: int = 0
    """Second and later effects of a record, and effects that no record has caused."""
    reordered: int = 0
    """Effects that came after the effect of a later record of their key."""
    miscounted: int = 0
    """Effects whose running count is not their place: the state was lost, repeated, or not of the same commit."""

    @property
    def sound(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.miscounted)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.records + other.records,
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.reordered + other.reordered,
            self.miscounted + other.miscounted,
        )


def judge(expected: Mapping[str, Sequence[int]], found: Iterable[Effect]) -> Verdict:
    """Compare the effects, in the order of their stream, with the records that were to have one."""
    wanted = {(key, number) for key, numbers in expected.items() for number in numbers}
    times: Counter[Identity] = Counter()
    highest: dict[str, int] = {}
    seen: Counter[str] = Counter()
    duplicated = reordered = miscounted = 0
    for effect in found:
        identity = (effect.key, effect.number)
        times[identity] += 1
        if times[identity] > 1 or identity not in wanted:
            duplicated += 1
            continue
        if effect.number < highest.get(effect.key, 0):
            reordered += 1
        highest[effect.key] = max(effect.number, highest.get(effect.key, 0))
        seen[effect.key] += 1
        if effect.counted is not None and effect.counted != seen[effect.key]:
            miscounted += 1
    lost = sum(identity not in times for identity in wanted)
    return Verdict(len(wanted), lost, duplicated, reordered, miscounted)
