"""When a vector is due, what it holds, and that state survives a restart to the byte."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_svc.assembler import Accepted, Assembler
from feature_svc.feature_sets import Feature, FeatureSet, load_feature_sets
from feature_svc.pit import RawFeature, Status, Violation
from feature_svc.symbol_state import SymbolState
from feature_svc.vector import FeatureVector, VectorRules

DAY = 86_400_000_000
NAMES = ("a", "b", "slow")
SET = FeatureSet(
    name="small",
    universe=("X",),
    sessions=load_feature_sets().get("equities_daily").sessions,
    features=(
        Feature(name="a", ttl_days=4, policy="latest_known", clocked=True),
        Feature(name="b", ttl_days=4, policy="first_print", clocked=True),
        Feature(name="slow", ttl_days=0, policy="latest_known", clocked=False),
    ),
)


def raw(name: str, day: int, value: float = 1.0, print_number: int = 0, delay_us: int = 10) -> RawFeature:
    return RawFeature("X", name, value, day * DAY, day * DAY + delay_us, print_number=print_number)


def accept(state: SymbolState, *prints: RawFeature) -> list[FeatureVector]:
    made: list[FeatureVector] = []
    for each in prints:
        accepted = Assembler([SET]).accept(state, each)
        assert isinstance(accepted, Accepted)
        made += accepted.before + accepted.completed
    return made


def test_a_vector_is_due_when_every_clocked_feature_has_come() -> None:
    state = SymbolState()
    assert accept(state, raw("a", 1, 0.5)) == []
    (vector,) = accept(state, raw("b", 1, 0.7, delay_us=99))
    assert vector.event_time_us == DAY
    assert vector.as_of_us == vector.max_available_at_us == DAY + 99
    assert vector.values[:2] == (0.5, 0.7)
    assert math.isnan(vector.values[2])
    assert vector.statuses == (Status.OK, Status.OK, Status.MISSING)
    assert vector.value_event_times_us == (DAY, DAY, 0)
    assert vector.value_available_at_us == (DAY + 10, DAY + 99, 0)


def test_an_incomplete_vector_is_made_by_the_next_event_time_and_does_not_see_it() -> None:
    state = SymbolState()
    (first, second) = accept(
        state, raw("a", 1, 1.0), raw("b", 1, 1.0), raw("a", 2, 2.0), raw("slow", 2), raw("a", 9, 3.0)
    )[:2]
    assert (first.event_time_us, second.event_time_us) == (DAY, 2 * DAY)
    assert second.values[:2] == (2.0, 1.0)
    assert second.value_event_times_us[:2] == (2 * DAY, DAY)
    assert second.as_of_us == 2 * DAY + 10


def test_a_value_that_did_not_come_for_too_long_is_stale() -> None:
    state = SymbolState()
    vectors = accept(state, raw("a", 1), raw("b", 1), raw("a", 5, delay_us=1), raw("a", 6))
    assert vectors[1].as_of_us == 5 * DAY + 10 - 9
    assert vectors[1].statuses[1] is Status.STALE
    assert vectors[1].values[1] == 1.0, "the value is given, with its status"


def test_what_comes_late_changes_no_served_vector_and_makes_no_new_one() -> None:
    state = SymbolState()
    assembler = Assembler([SET])
    accept(state, raw("a", 1), raw("b", 1), raw("a", 2), raw("b", 2))
    for late in (raw("a", 1, 9.0, 1, delay_us=3 * DAY), raw("a", 2, 9.0, 1, delay_us=3 * DAY)):
        accepted = assembler.accept(state, late)
        assert isinstance(accepted, Accepted)
        assert accepted.late
        assert accepted.before == accepted.completed == []
    found = state.histories["a"].select(2 * DAY + 10, "latest_known")
    assert found is not None
    assert found.value == 1.0, "as of then, it was not known"


def test_a_feature_that_is_not_clocked_calls_for_no_vector() -> None:
    state = SymbolState()
    assert accept(state, raw("slow", 1, 7.0), raw("slow", 2, 8.0)) == []
    (vector,) = accept(state, raw("a", 2), raw("b", 2))
    assert vector.values[2] == 8.0


def test_a_repeat_is_left_alone_and_a_reused_print_number_is_refused() -> None:
    state = SymbolState()
    accept(state, raw("a", 1, 0.5))
    before = state.encode()
    accepted = Assembler([SET]).accept(state, raw("a", 1, 0.5))
    assert isinstance(accepted, Accepted)
    assert accepted.repeated
    for other in (raw("a", 1, 0.6), raw("a", 1, 0.5, delay_us=11)):
        refused = Assembler([SET]).accept(state, other)
        assert isinstance(refused, Violation)
        assert refused.reason == "PRINT_REUSED"
    assert state.encode() == before


PRINTS = st.builds(
    raw,
    name=st.sampled_from(NAMES),
    day=st.integers(0, 6),
    value=st.floats(allow_nan=False, allow_infinity=False),
    print_number=st.integers(0, 3),
    delay_us=st.integers(0, 3 * DAY),
)


@given(st.lists(PRINTS, max_size=60), st.integers(0, 60))
def test_a_restart_changes_nothing(prints: list[RawFeature], at: int) -> None:
    assembler = Assembler([SET])
    straight, restarted = SymbolState(), SymbolState()
    for number, each in enumerate(prints):
        if number == at:
            restarted = SymbolState.decode(restarted.encode())
        assert repr(assembler.accept(straight, each)) == repr(assembler.accept(restarted, each))
    assert straight.encode() == restarted.encode()


@given(st.lists(PRINTS, max_size=60))
def test_vectors_are_made_once_in_order_and_prove_no_look_ahead(prints: list[RawFeature]) -> None:
    assembler, state = Assembler([SET]), SymbolState()
    made: list[FeatureVector] = []
    for each in prints:
        accepted = assembler.accept(state, each)
        if isinstance(accepted, Accepted):
            made += accepted.before + accepted.completed
    times = [vector.event_time_us for vector in made if vector.event_time_us is not None]
    assert len(times) == len(made)
    assert times == sorted(set(times))
    for vector in made:
        assert vector.max_available_at_us is not None
        assert vector.max_available_at_us <= vector.as_of_us
        assert vector.event_time_us is not None
        assert vector.event_time_us <= vector.as_of_us


@given(st.lists(PRINTS, max_size=60))
def test_online_gives_what_the_stream_gave_while_it_remembers(prints: list[RawFeature]) -> None:
    """Available in the order of the stream, a vector is the same whether made then or asked for afterwards."""
    ordered = sorted(prints, key=lambda each: (each.event_time_us, each.available_at_us))
    clock, in_order = 0, []
    for each in ordered:
        clock = max(clock + 1, each.available_at_us or 0)
        in_order.append(each._replace(available_at_us=clock))
    assembler, state = Assembler([SET]), SymbolState()
    made: list[FeatureVector] = []
    for each in in_order:
        accepted = assembler.accept(state, each)
        if isinstance(accepted, Accepted):
            made += accepted.before + accepted.completed
    rules = VectorRules(SET)
    stored = SymbolState.decode(state.encode())
    for vector in made:
        if all(history.complete_from_us <= vector.as_of_us for history in stored.histories.values()):
            assert repr(rules.vector("X", stored.histories, vector.as_of_us)) == repr(vector)


def test_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 9"):
        SymbolState.decode(b"\x09" + SymbolState().encode()[1:])
