"""What the bench of the streams works on: the mesh's own catalog, records of 200 bytes, and processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from quantmesh.streams.v1 import feature_pb2
from runtime.tethered import tethered
from runtime.times import now_us, set_us
from streams import Catalog, load_catalog
from streams.catalog import Retention

SOURCE, SINK = "features.raw", "features.pit"
PAYLOAD_BYTES = 200
CATALOG = load_catalog(partitions=4)
KEY = {CATALOG.partition_of(f"K{n}"): f"K{n}" for n in range(100)}
"""A key of each partition."""


def raw_feature() -> bytes:
    """A message of 200 bytes, as a publisher of features would send it."""
    message = feature_pb2.RawFeature(symbol="K17", name="return_20d", value=0.0125, source="bench", event_id="e")
    set_us(message.event_time, now_us())
    set_us(message.available_at, now_us())
    message.event_id *= PAYLOAD_BYTES - message.ByteSize() + 1
    if message.ByteSize() != PAYLOAD_BYTES:  # the length of the id takes a byte or two itself
        message.event_id = message.event_id[: PAYLOAD_BYTES - message.ByteSize()]
    assert message.ByteSize() == PAYLOAD_BYTES, message.ByteSize()
    return message.SerializeToString()


def endless_catalog() -> Catalog:
    """The catalog for more records than a server's memory holds: the source goes when it is committed, the sink keeps
    its newest, and the producer waits for the processor."""
    source = CATALOG.stream(SOURCE).model_copy(
        update={
            "retention": Retention(policy="committed", keep_hours=0),
            "high_water": 50_000,
            "low_water": 25_000,
        }
    )
    sink = CATALOG.stream(SINK).model_copy(update={"retention": Retention(policy="drop_oldest", max_records=50_000)})
    return CATALOG.model_copy(update={"streams": {SOURCE: source, SINK: sink}})


class Worker:
    """A role of bench.streams_workers in a process of its own, which dies with this one."""

    def __init__(self, role: str, url: str, **arguments: Any) -> None:
        command = [sys.executable, "-m", "bench.streams_workers", role, url, json.dumps(arguments)]
        self.process = subprocess.Popen(tethered(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def said(self) -> dict[str, Any]:
        """The next line of its output. Raises RuntimeError when it ends instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with code {self.process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
