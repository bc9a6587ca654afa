"""The one place where the contract's messages meet the domain."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from feature_svc.market import Tick
from feature_svc.pit import RawFeature
from feature_svc.vector import FeatureVector
from quantmesh.streams.v1 import feature_pb2, market_data_pb2
from runtime.times import instant_us, set_us
from streams.vector_hash import hash_of


class UnparsableError(ValueError):
    """Bytes that are no message of the expected type."""


def parse_raw(payload: bytes) -> RawFeature:
    """Read an entry of `features.raw`. Raises UnparsableError."""
    try:
        return raw_of(feature_pb2.RawFeature.FromString(payload))
    except DecodeError as error:
        raise UnparsableError("the payload is no RawFeature") from error


def raw_of(message: feature_pb2.RawFeature) -> RawFeature:
    """A RawFeature message as a print."""
    return RawFeature(
        message.symbol,
        message.name,
        message.value,
        instant_us(message.event_time) if message.HasField("event_time") else None,
        instant_us(message.available_at) if message.HasField("available_at") else None,
        message.source,
        message.print_number,
        message.event_id,
    )


def raw_payload(raw: RawFeature) -> bytes:
    """A print as an entry of `features.raw`."""
    message = feature_pb2.RawFeature(
        symbol=raw.symbol,
        name=raw.name,
        value=raw.value,
        source=raw.source,
        print_number=raw.print_number,
        event_id=raw.event_id,
    )
    if raw.event_time_us is not None:
        set_us(message.event_time, raw.event_time_us)
    if raw.available_at_us is not None:
        set_us(message.available_at, raw.available_at_us)
    return message.SerializeToString()


def parse_tick(payload: bytes) -> Tick:
    """Read an entry of `market_data.trades`. Raises UnparsableError."""
    try:
        message = market_data_pb2.TradeTick.FromString(payload)
    except DecodeError as error:
        raise UnparsableError("the payload is no TradeTick") from error
    return Tick(
        message.symbol,
        instant_us(message.event_time) if message.HasField("event_time") else None,
        instant_us(message.available_at) if message.HasField("available_at") else None,
        message.price,
        message.size,
    )


def vector_message(vector: FeatureVector) -> feature_pb2.FeatureVector:
    """A vector with its hash as a message."""
    message = feature_pb2.FeatureVector(
        symbol=vector.symbol,
        feature_set=vector.feature_set,
        values=vector.values,
        statuses=[feature_pb2.FeatureStatus.ValueType(status) for status in vector.statuses],
        value_event_times_us=vector.value_event_times_us,
        value_available_at_us=vector.value_available_at_us,
    )
    set_us(message.as_of, vector.as_of_us)
    if vector.event_time_us is not None:
        set_us(message.event_time, vector.event_time_us)
    if vector.max_available_at_us is not None:
        set_us(message.max_available_at, vector.max_available_at_us)
    message.vector_hash = hash_of(message)
    return message
