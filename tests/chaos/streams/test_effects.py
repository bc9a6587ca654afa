"""The checker can see what it is there to see."""

from __future__ import annotations

import pytest

from tests.chaos.streams.effects import Effect, Verdict, judge

EXPECTED = {"A": [1, 2, 3], "B": [1, 2]}
ALL = ["A|1|1", "B|1|1", "A|2|2", "A|3|3", "B|2|2"]


def effects(texts: list[str]) -> list[Effect]:
    return [Effect.of(text.encode()) for text in texts]


def test_each_once_in_order_is_sound() -> None:
    verdict = judge(EXPECTED, effects(ALL))
    assert verdict == Verdict(records=5)
    assert verdict.sound


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (["A|1|1", "B|1|1", "A|2|2", "B|2|2"], Verdict(5, lost=1)),
        ([*ALL, "A|2|4"], Verdict(5, duplicated=1)),
        ([*ALL, "C|1|1"], Verdict(5, duplicated=1)),
        (["A|2|1", "A|1|2", "A|3|3", "B|1|1", "B|2|2"], Verdict(5, reordered=1)),
        (["A|1|1", "A|2|1", "A|3|3", "B|1|1", "B|2|2"], Verdict(5, miscounted=1)),
        (["A|1", "A|2", "A|3", "B|2", "B|1|"], Verdict(5, reordered=1)),
    ],
)
def test_what_is_not_sound(found: list[str], verdict: Verdict) -> None:
    assert judge(EXPECTED, effects(found)) == verdict
    assert not verdict.sound
