"""`quantmesh streams tail`."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from runtime.errors import InvalidInputError
from runtime.redis_client import Client
from streams.catalog import Catalog
from streams.cli.looking import at
from streams.cli.place import run
from streams.operations import tail as source
from streams.operations.payloads import Payloads
from streams.records import Record

_DEFAULT_LINES = 10


def tail(
    catalog_path: Path | None,
    name: str,
    lines: int | None,
    partition: int | None,
    as_json: bool,
    *,
    from_beginning: bool,
    follow: bool,
) -> None:
    """Print records; with `follow`, until Ctrl-C."""

    async def work(redis: Client, catalog: Catalog) -> None:
        stream = catalog.stream(name)
        if partition is not None and partition >= catalog.partitions:
            raise InvalidInputError.of_field("partition", f"{partition} is not below {catalog.partitions}")
        partitions = list(range(catalog.partitions)) if partition is None else [partition]
        payloads = Payloads(stream)
        shown = dict.fromkeys(partitions, "0-0")
        ended = _interrupted()
        if from_beginning:
            left = lines
            async for record in source.from_beginning(redis, stream, partitions):
                if left == 0 or ended.is_set():
                    break
                left = left - 1 if left is not None else None
                _print(record, payloads, as_json)
                shown[record.partition] = record.entry_id
        else:
            found, ends = await source.newest(redis, stream, partitions, _DEFAULT_LINES if lines is None else lines)
            for record in found:
                _print(record, payloads, as_json)
            shown |= ends
        if follow:
            async for record in source.following(redis, stream, shown, ended):
                _print(record, payloads, as_json)

    with suppress(KeyboardInterrupt):  # before, or the second one
        run(catalog_path, as_json, work)


def _interrupted() -> asyncio.Event:
    """Set by Ctrl-C, which is the way to end it. A cancellation would do, were it not lost now and then: see
    `runtime.process.ended`."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        event.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, on_signal)
    return event


def _print(record: Record, payloads: Payloads, as_json: bool) -> None:
    payload = payloads.as_json(record.payload)
    if as_json:
        line: dict[str, Any] = {
            "partition": record.partition,
            "entry_id": record.entry_id,
            "appended_at": at(record.entry_id),
            "traceparent": record.traceparent,
            "payload": payload,
        }
        typer.echo(json.dumps(line))
    else:
        typer.echo(f"{at(record.entry_id)}  {record.partition}/{record.entry_id}  {json.dumps(payload)}")
