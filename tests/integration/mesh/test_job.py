"""The main job through a whole mesh: nothing lost, nothing twice, nothing seen too early, and evidence for it."""

from __future__ import annotations

from examples.us_equities.job import Report


def test_every_record_is_there_once(replayed: Report) -> None:
    for stage in replayed.books.stages:
        assert (stage.lost, stage.duplicated) == (0, 0), stage.stream
    assert [stage.records for stage in replayed.books.stages][-1] == 12 * 20


def test_no_vector_looks_ahead_and_online_is_bulk_bit_for_bit(replayed: Report) -> None:
    assert replayed.books.look_ahead == 0
    assert replayed.books.complete == replayed.books.equal_to_bulk == 12 * 20


def test_every_signal_has_its_receipt(replayed: Report) -> None:
    assert replayed.books.unreceipted == 0


def test_a_rollback_takes_less_than_a_second(replayed: Report) -> None:
    """What the design promises; on an idle machine it is a few milliseconds."""
    assert replayed.rollback_ms < 1000
