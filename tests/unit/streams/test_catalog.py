"""The catalog: what the seven streams are, and how a stream and a partition are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.errors import NotFoundError
from streams import load_catalog
from streams.catalog import Retention

CATALOG = load_catalog(partitions=4)


def test_the_seven_streams_are_there_with_their_groups_and_two_of_the_systems_own() -> None:
    assert {name: stream.group for name, stream in CATALOG.streams.items()} == {
        "market_data.l1": "market_data_consumer",
        "market_data.trades": "trade_consumer",
        "features.raw": "feature_processor",
        "features.pit": "trading_service",
        "features.held.{strategy}": "trading_service",
        "signals.{strategy}": "execution_service",
        "shadow.{strategy}": "shadow_evaluation",
        "orders": "order_manager",
        "fills": "pnl_service",
    }
    assert CATALOG.stream_max_lag_ms == 200
    assert CATALOG.stream("features.pit").batch_size == 100


def test_a_template_gives_each_strategy_its_stream() -> None:
    assert CATALOG.stream("signals.momentum").name == "signals.momentum"
    assert CATALOG.stream("signals.momentum").payload == "Signal"


@pytest.mark.parametrize("name", ["signals.", "signals.{strategy}", "feature.raw", "", "mlops.events"])
def test_an_unknown_stream_is_named(name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        CATALOG.stream(name)
    assert caught.value.reason == "UNKNOWN_STREAM"


def test_money_is_never_dropped() -> None:
    for name in ("features.raw", "features.pit", "signals.x", "orders", "fills"):
        assert CATALOG.stream(name).retention.policy == "committed"
        assert CATALOG.stream(name).delivery == "exactly_once"


@given(st.text(), st.integers(1, 1024))
def test_a_key_has_one_partition(key: str, partitions: int) -> None:
    catalog = CATALOG.model_copy(update={"partitions": partitions})
    assert 0 <= catalog.partition_of(key) < partitions
    assert catalog.partition_of(key) == catalog.partition_of(key)


def test_partitions_of_known_keys_never_change() -> None:
    """A change would send a symbol's records to another partition and break their order."""
    assert [load_catalog(8).partition_of(key) for key in ("AAPL", "MSFT", "é")] == [4, 3, 6]


@pytest.mark.parametrize("bad", [{"policy": "drop_oldest"}, {"policy": "committed", "max_records": 5}])
def test_retention_says_what_its_policy_needs(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Retention.model_validate(bad)
