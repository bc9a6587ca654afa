"""Payloads of a stream by the catalog's message name, and the ids that operators write."""

from __future__ import annotations

import pytest

from quantmesh.streams.v1.feature_pb2 import RawFeature
from quantmesh.streams.v1.order_pb2 import Order
from runtime.errors import InvalidInputError, NotFoundError
from runtime.times import from_us
from streams import load_catalog
from streams.operations.dead_letters import LetterId, _key_of
from streams.operations.lag import LagMonitor
from streams.operations.payloads import Payloads, message_class
from streams.operations.snapshot import milliseconds, order

CATALOG = load_catalog(partitions=4)


def test_every_stream_of_the_catalog_has_a_message_with_its_key() -> None:
    for stream in CATALOG.streams.values():
        kind = message_class(stream.payload)
        assert kind is not None, stream.name
        assert stream.key in kind.DESCRIPTOR.fields_by_name
        assert not stream.idempotency_field or stream.idempotency_field in kind.DESCRIPTOR.fields_by_name


def test_a_message_is_found_by_its_full_name_too() -> None:
    found = message_class("quantmesh.mlops.v1.Deployment")
    assert found is not None
    assert found.DESCRIPTOR.full_name == "quantmesh.mlops.v1.Deployment"
    assert message_class("nobody.v1.Nothing") is None


def test_a_payload_is_shown_as_json_and_as_bytes_when_it_is_none() -> None:
    payloads = Payloads(CATALOG.stream("orders"))
    whole = Order(order_id="o1", symbol="AAPL").SerializeToString()
    assert payloads.as_json(whole) == {"order_id": "o1", "symbol": "AAPL"}
    assert payloads.as_json(b"\xff\xff") == {"base64": "//8="}
    assert payloads.parse(Order(order_id="o1").SerializeToString()) is None  # without its key


def test_a_restatement_may_look_back_and_series_are_told_apart() -> None:
    payloads = Payloads(CATALOG.stream("features.raw"))
    first = RawFeature(symbol="AAPL", name="close", event_time=from_us(5))
    again = RawFeature(symbol="AAPL", name="close", event_time=from_us(5), print_number=1)
    other = RawFeature(symbol="AAPL", name="revenue", event_time=from_us(1))
    assert (payloads.event_time_us(first), payloads.event_time_us(again)) == (5, None)
    assert payloads.series(first) == payloads.series(again) != payloads.series(other)


def test_entry_ids_sort_as_numbers() -> None:
    assert order("9-10") > order("9-9") > order("8-11")
    assert milliseconds("1764057600000-3") == 1764057600000


@pytest.mark.parametrize("text", ["", "2", "2/", "2/x-0", "x/1-0", "1-0"])
def test_a_letter_id_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        LetterId.parse(text)
    assert caught.value.violations[0].field == "letter"


def test_a_letter_id_is_read_as_it_is_written() -> None:
    assert str(LetterId.parse("2/17-0")) == "2/17-0"


def test_a_key_is_found_for_every_partition_and_for_one_that_is_no_more() -> None:
    assert [CATALOG.partition_of(_key_of(CATALOG, partition)) for partition in range(6)] == [0, 1, 2, 3, 0, 1]


def test_the_lag_monitor_knows_only_streams_of_the_catalog() -> None:
    with pytest.raises(NotFoundError):
        LagMonitor(None, CATALOG, [("nonsense", "group")])  # type: ignore[arg-type]
