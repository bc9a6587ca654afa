"""What a name resolves to in one snapshot, and what a swap changes."""

from __future__ import annotations

import pytest

from inference_svc.registry import Registry, Snapshot
from runtime.errors import InvalidInputError, NotFoundError, UnavailableError
from tests.unit.inference_svc.loaded import loaded, serving

X, Y, Z = ("1" * 64, "2" * 64, "3" * 64)


def snapshot(*strategies: str, default: str | None = None) -> Snapshot:
    return Snapshot({name: serving(name, champion=loaded(name[0] * 64)) for name in strategies}, default)


def reason(of: Snapshot, name: str) -> str:
    with pytest.raises(NotFoundError) as raised:
        of.resolve(name)
    return raised.value.reason


def test_every_name_of_a_champion_resolves_to_it() -> None:
    one = Snapshot({"momentum": serving("momentum", 7, champion=loaded(X), previous=loaded(Y))}, None)
    for name in ("", "champion", "momentum", "momentum@champion", X):
        found = one.resolve(name)
        assert (found.loaded.version, found.role, found.generation) == (X, "champion", 7)
    assert one.resolve(Y).role == "previous"


def test_champion_alone_is_the_default_strategys_or_the_only_ones() -> None:
    assert snapshot("carry").resolve("champion").strategy == "carry"
    assert snapshot("carry", "momentum", default="momentum").resolve("").strategy == "momentum"
    assert reason(snapshot("carry", "momentum"), "champion") == "NO_DEFAULT_STRATEGY"
    assert reason(snapshot("carry", default="momentum"), "champion") == "UNKNOWN_MODEL"


def test_a_strategy_called_champion_is_reached_by_its_full_name() -> None:
    both = snapshot("champion", "momentum", default="momentum")
    assert both.resolve("champion").strategy == "momentum"
    assert both.resolve("champion@champion").strategy == "champion"


def test_what_is_not_loaded_is_not_found_and_what_is_no_name_is_invalid() -> None:
    of = snapshot("momentum")
    assert [reason(of, name) for name in ("carry", "momentum@challenger", "challenger", Z)] == ["UNKNOWN_MODEL"] * 4
    assert reason(snapshot(), "champion") == "UNKNOWN_MODEL"
    with pytest.raises(InvalidInputError):
        of.resolve("No Name")


def test_an_error_lists_some_of_what_is_loaded() -> None:
    many = snapshot(*(f"{n}-strategy" for n in range(10, 60)))
    with pytest.raises(NotFoundError, match="and 40 more") as raised:
        many.resolve("carry")
    assert len(raised.value.message) < 1000


def test_a_swap_leaves_whoever_holds_the_old_snapshot_alone() -> None:
    registry = Registry()
    registry.swap(serving("momentum", 1, champion=loaded(X)))
    registry.swap(serving("carry", 1, champion=loaded(Z)))
    held = registry.current
    registry.swap(serving("momentum", 2, champion=loaded(Y), previous=loaded(X)))
    assert held.resolve("momentum").loaded.version == X
    assert registry.current.resolve("momentum").loaded.version == Y
    assert registry.current.resolve("carry").loaded.version == Z


def test_a_challenger_has_its_names_and_its_digest_while_it_is_ready() -> None:
    ready = serving("momentum", 7, champion=loaded(X), previous=loaded(Y), challenger_version=Z, challenger=loaded(Z))
    one = Snapshot({"momentum": ready}, None)
    for name in ("challenger", "momentum@challenger", Z):
        found = one.resolve(name)
        assert (found.loaded.version, found.role, found.generation) == (Z, "challenger", 7)
    assert [target.role for target in one.targets()] == ["champion", "challenger", "previous"]
    assert one.resolve("champion").loaded.version == X


def test_a_challenger_that_is_not_ready_is_told_from_one_that_is_not_there() -> None:
    waiting = serving("momentum", champion=loaded(X), challenger_version=Z)
    one = Snapshot({"momentum": waiting, "carry": serving("carry", champion=loaded(Y))}, "momentum")
    for name in ("challenger", "momentum@challenger"):
        with pytest.raises(UnavailableError) as raised:
            one.resolve(name)
        assert (raised.value.reason, raised.value.retry_after_s) == ("CHALLENGER_NOT_READY", 1.0)
    assert reason(one, "carry@challenger") == "UNKNOWN_MODEL"
    assert reason(one, Z) == "UNKNOWN_MODEL"


def test_a_digest_means_what_is_in_this_process_before_what_is_beside_it() -> None:
    both = serving("momentum", champion=loaded(X), previous=loaded(Y), challenger_version=Y, challenger=loaded(Y))
    one = Snapshot({"momentum": both}, None)
    assert one.resolve(Y).role == "previous"
    assert one.resolve("challenger").role == "challenger"
