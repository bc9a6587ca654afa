"""The catalog: which streams there are, and what each promises. Read from streams.yaml, once, and immutable."""

from __future__ import annotations

import re
import zlib
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.errors import NotFoundError

_YAML = Path(__file__).with_name("streams.yaml")
_TEMPLATE = "{strategy}"
_STRATEGY = "[a-z0-9_-]{1,64}"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Retention(_Strict):
    """How long entries are kept; see streams.yaml."""

    policy: Literal["drop_oldest", "committed"]
    max_records: int | None = Field(default=None, gt=0, description="drop_oldest: entries kept in a partition.")
    keep_hours: float | None = Field(default=None, ge=0, description="committed: hours kept after the commit.")

    @model_validator(mode="after")
    def _fits_the_policy(self) -> Retention:
        if (self.policy == "drop_oldest") != (self.max_records is not None):
            raise ValueError("max_records goes with drop_oldest, and is required there")
        if (self.policy == "committed") != (self.keep_hours is not None):
            raise ValueError("keep_hours goes with committed, and is required there")
        return self


class _StreamEntry(_Strict):
    payload: str
    key: str
    group: str
    delivery: Literal["exactly_once", "at_least_once"]
    retention: Retention
    batch_size: int | None = Field(default=None, gt=0)


class _SystemEntry(_Strict):
    payload: str
    max_records: int = Field(gt=0)


class _File(_Strict):
    stream_backend: Literal["redis_streams"]
    stream_max_lag_ms: float = Field(gt=0)
    consumer_group: str
    batch_size: int = Field(gt=0)
    streams: dict[str, _StreamEntry]
    system: dict[str, _SystemEntry]


class Stream(_Strict):
    """One logical stream."""

    name: str
    payload: str
    key: str
    group: str
    delivery: Literal["exactly_once", "at_least_once"]
    retention: Retention
    batch_size: int


class SystemStream(_Strict):
    """A stream of the system's own, without partitions."""

    name: str
    payload: str
    max_records: int


class Catalog(_Strict):
    """All streams, and the one number of partitions of the mesh."""

    partitions: int = Field(ge=1)
    streams: dict[str, Stream]
    system: dict[str, SystemStream]
    stream_max_lag_ms: float
    consumer_group: str

    def stream(self, name: str) -> Stream:
        """Definition of a stream; `signals.momentum` is found under its template, and keeps its own name.

        Raises NotFoundError (reason UNKNOWN_STREAM).
        """
        found = self.streams.get(name)
        if found is not None and _TEMPLATE not in name:
            return found
        for template, stream in self.streams.items():
            prefix = template.partition(_TEMPLATE)[0]
            if template.endswith(_TEMPLATE) and re.fullmatch(re.escape(prefix) + _STRATEGY, name):
                return stream.model_copy(update={"name": name})
        raise NotFoundError(f"no stream {name!r}; there are: {', '.join(self.streams)}", reason="UNKNOWN_STREAM")

    def partition_of(self, key: str) -> int:
        """Partition of a key: CRC-32 of its UTF-8 bytes, modulo the number of partitions. The same in all streams."""
        return zlib.crc32(key.encode()) % self.partitions


@cache
def _file() -> _File:
    return _File.model_validate(yaml.safe_load(_YAML.read_text()))


def load_catalog(partitions: int) -> Catalog:
    """The catalog of a mesh with that many partitions."""
    file = _file()
    return Catalog(
        partitions=partitions,
        streams={
            name: Stream(
                name=name,
                payload=entry.payload,
                key=entry.key,
                group=entry.group,
                delivery=entry.delivery,
                retention=entry.retention,
                batch_size=entry.batch_size or file.batch_size,
            )
            for name, entry in file.streams.items()
        },
        system={name: SystemStream(name=name, **entry.model_dump()) for name, entry in file.system.items()},
        stream_max_lag_ms=file.stream_max_lag_ms,
        consumer_group=file.consumer_group,
    )
