"""When a vector is due: the pure core of the pipeline from `features.raw` to `features.pit`.

The vector of (symbol, event time T) is made when every clocked feature of the set has arrived for T; if some never
come, when the symbol's first print of a newer event time does. It is made once: what arrives later for T changes
nothing that was served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from feature_svc.feature_sets import FeatureSet
from feature_svc.pit import History, Print, RawFeature, Violation
from feature_svc.symbol_state import Clock, SymbolState
from feature_svc.vector import FeatureVector, VectorRules


@dataclass(slots=True)
class Accepted:
    """What one print led to."""

    before: list[FeatureVector] = field(default_factory=list)
    """Vectors that it closed: they were incomplete, and do not see it."""
    completed: list[FeatureVector] = field(default_factory=list)
    """Vectors that it completed."""
    late: bool = False
    """It came after the vector of its event time was served, or after that of a newer one was begun."""
    repeated: bool = False
    """It was known already, and was left alone."""


class _Place(NamedTuple):
    rules: VectorRules
    clocked: bool


class Assembler:
    """Takes prints in the order of the stream, and says which vectors are due. Holds no state of its own."""

    def __init__(self, sets: Sequence[FeatureSet]) -> None:
        self._places: dict[str, list[_Place]] = {}
        for feature_set in sets:
            rules = VectorRules(feature_set)
            for feature in feature_set.features:
                self._places.setdefault(feature.name, []).append(_Place(rules, feature.clocked))

    def accept(self, state: SymbolState, raw: RawFeature) -> Accepted | Violation:
        """Take one print that `check_print` found sound into the symbol's state.

        A print number that comes again with the same content is left alone; with other content it is the violation
        PRINT_REUSED, because a restatement is a new print. In both cases the state stays as it was.
        """
        symbol, name, value, event_time_us, available_at_us, _, print_number, _ = raw
        if event_time_us is None or available_at_us is None:
            raise ValueError("a print without times was not checked")
        history = state.histories.get(name)
        if history is None:
            history = state.histories[name] = History()
        known = history.find(event_time_us, print_number)
        if known is not None:
            if known.available_at_us == available_at_us and known.value == value:
                return Accepted(repeated=True)
            return Violation(
                "PRINT_REUSED",
                "print_number",
                f"print {print_number} of {name} at this event_time is known with other content; a restatement needs "
                "a higher print_number",
            )
        accepted = Accepted()
        clocked = [rules for rules, is_clocked in self._places[name] if is_clocked]
        for rules in clocked:
            clock = self._clock(state, rules)
            if event_time_us > clock.event_time_us:
                if not clock.served:
                    accepted.before.append(rules.vector(symbol, state.histories, state.as_of_us))
                clock.event_time_us, clock.served, clock.waiting_for = event_time_us, False, set(rules.clocked)
            elif clock.served or event_time_us < clock.event_time_us:
                accepted.late = True
        history.add(Print(event_time_us, available_at_us, state.next_sequence, print_number, value))
        state.next_sequence += 1
        if available_at_us > state.as_of_us:
            state.as_of_us = available_at_us
        for rules in clocked:
            clock = self._clock(state, rules)
            if event_time_us == clock.event_time_us and not clock.served and clock.waiting_for is not None:
                clock.waiting_for.discard(name)
                if not clock.waiting_for:
                    clock.served = True
                    accepted.completed.append(rules.vector(symbol, state.histories, state.as_of_us))
        return accepted

    @staticmethod
    def _clock(state: SymbolState, rules: VectorRules) -> Clock:
        clock = state.clocks.get(rules.name)
        if clock is None:
            clock = state.clocks[rules.name] = Clock()
        if clock.waiting_for is None:
            clock.waiting_for = {
                name
                for name in rules.clocked
                if name not in state.histories
                or all(held.event_time_us != clock.event_time_us for held in state.histories[name].prints)
            }
        return clock
