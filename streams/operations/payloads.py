"""Payloads by the message that the catalog names: as JSON, and what of them an audit looks at."""

from __future__ import annotations

import base64
import importlib
import pkgutil
from collections.abc import Hashable
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from runtime.times import to_us
from streams.catalog import Stream

_PACKAGE = "quantmesh.streams.v1"
_SERIES = ("name", "feature_set", "strategy", "source", "venue")
"""Fields that split a key's records into series, each of which goes forward in time."""


class Payloads:
    """Reads the payloads of one stream. Of a message that is not installed, they stay bytes."""

    def __init__(self, stream: Stream) -> None:
        self._key = stream.key
        self._identity = stream.idempotency_field
        self._kind = message_class(stream.payload)
        self._fields = set(self._kind.DESCRIPTOR.fields_by_name) if self._kind else set()

    @property
    def known(self) -> bool:
        """Whether the message is installed here."""
        return self._kind is not None

    def parse(self, payload: bytes) -> Message | None:
        """The message; None when it is not one, or lacks its key, or its kind is not known."""
        if self._kind is None:
            return None
        try:
            message = self._kind.FromString(payload)
        except DecodeError:
            return None
        return message if self._key not in self._fields or getattr(message, self._key) else None

    def as_json(self, payload: bytes) -> dict[str, Any]:
        """The payload as plain data; `{"base64": …}` when it cannot be parsed."""
        message = self.parse(payload)
        if message is None:
            return {"base64": base64.b64encode(payload).decode()}
        return MessageToDict(message, preserving_proto_field_name=True)

    def key(self, message: Message) -> str | None:
        """Value of the key field; None when the message has no such field."""
        return str(getattr(message, self._key)) if self._key in self._fields else None

    def identity(self, message: Message) -> str:
        """The business identity; empty when the stream has none."""
        return str(getattr(message, self._identity)) if self._identity in self._fields else ""

    def series(self, message: Message) -> Hashable:
        """Which series the record belongs to: its key, and what tells the series of one key apart."""
        return tuple(getattr(message, name) for name in (self._key, *_SERIES) if name in self._fields)

    def event_time_us(self, message: Message) -> int | None:
        """The record's `event_time`; None when it has none, or restates an earlier one."""
        if "event_time" not in self._fields or not message.HasField("event_time"):
            return None
        fields: Any = message
        if "print_number" in self._fields and fields.print_number:
            return None
        return to_us(fields.event_time)


@cache
def message_class(name: str) -> type[Message] | None:
    """The class of a message: of `quantmesh.streams.v1`, or with a dot its full name. None when it is not installed."""
    full_name = name if "." in name else f"{_PACKAGE}.{name}"
    _import_package(full_name.rpartition(".")[0])
    try:
        return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(full_name))
    except KeyError:
        return None


def _import_package(name: str) -> None:
    try:
        package = importlib.import_module(name)
    except ImportError:  # not every protobuf package is a Python package; its messages may be loaded all the same
        return
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{name}.{module.name}")
