"""The catalog: which streams there are, and what each promises. Read from streams.yaml, once, and immutable."""

from __future__ import annotations

import re
import zlib
from functools import cache
from pathlib import Path
from typing import Literal, Self

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


class _Limits(_Strict):
    """What holds for every stream, unless its own entry says otherwise; see streams.yaml for each field."""

    batch_size: int = Field(default=100, gt=0)
    max_batch_delay_ms: float = Field(default=5, ge=0)
    high_water: int = Field(default=1_000_000, gt=0)
    low_water: int = Field(default=800_000, ge=0)
    durability: str = Field(default="memory", pattern=r"^(memory|aof|replicated\([1-9]\d?\))$")
    max_attempts: int = Field(default=5, gt=0)
    dead_letter_max_records: int = Field(default=1_000_000, gt=0)
    deduplication_hours: float = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low_water >= self.high_water:
            raise ValueError("low_water must be below high_water")
        return self


class Stream(_Limits):
    """One logical stream."""

    name: str
    payload: str
    key: str
    groups: tuple[str, ...] = Field(min_length=1)
    delivery: Literal["exactly_once", "at_least_once"]
    retention: Retention
    idempotency_field: str = ""

    @property
    def group(self) -> str:
        """The group that usually reads it."""
        return self.groups[0]

    @property
    def replicas(self) -> int:
        """Replicas that must have a record before a send is done; 0 when none need."""
        return int(self.durability[len("replicated(") : -1]) if self.durability.startswith("replicated") else 0


class _File(_Limits):
    stream_backend: Literal["redis_streams"]
    stream_max_lag_ms: float = Field(gt=0)
    consumer_group: str
    streams: dict[str, dict[str, object]]


class Catalog(_Strict):
    """All streams, and the one number of partitions of the mesh."""

    partitions: int = Field(ge=1)
    streams: dict[str, Stream]
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
def _file(path: Path) -> _File:
    return _File.model_validate(yaml.safe_load(path.read_text()))


def load_catalog(partitions: int, path: Path = _YAML) -> Catalog:
    """The catalog of a mesh with that many partitions; `path` names another definition than the mesh's own."""
    file = _file(path)
    defaults = {name: getattr(file, name) for name in _Limits.model_fields} | {"groups": [file.consumer_group]}
    return Catalog(
        partitions=partitions,
        streams={
            name: Stream.model_validate({**defaults, **entry, "name": name}) for name, entry in file.streams.items()
        },
        stream_max_lag_ms=file.stream_max_lag_ms,
        consumer_group=file.consumer_group,
    )
