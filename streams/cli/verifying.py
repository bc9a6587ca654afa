"""`quantmesh streams verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from runtime.cli.output import EX_FAILED, show, table
from runtime.redis_client import Client
from streams.catalog import Catalog
from streams.cli.place import run
from streams.operations.audit import Audit
from streams.operations.audit import verify as audit


def verify(catalog_path: Path | None, name: str, as_json: bool) -> None:
    """Print the report on a stream; exit code 1 when something is wrong with it."""

    async def work(redis: Client, catalog: Catalog) -> Audit:
        return await audit(redis, catalog, catalog.stream(name))

    found = run(catalog_path, as_json, work)
    columns = ("partition", "records", "appended", "trimmed", "faults")
    rows = [
        (part.partition, part.records, part.appended, part.trimmed, sum(fault.count for fault in part.faults))
        for part in found.partitions
    ]
    faults = [(fault.partition, fault.kind, fault.count, "; ".join(fault.examples)) for fault in found.faults]
    tables = [table(f"{name} is {'sound' if found.sound else 'not sound'}", columns, rows)]
    if faults:
        tables.append(table("Faults", ("partition", "kind", "count", "for example"), faults))
    if not found.payload_known:
        tables.append("The payload's message is not installed here: order and keys were not looked at.")
    if not found.server_counts:
        tables.append("This server does not count entries (Redis 7 does): gaps are seen only in what is unread.")
    if found.repeats:
        tables.append(f"{found.repeats} records equal an earlier one; an at-least-once stream may have them.")
    show(as_json, {"sound": found.sound, **asdict(found)}, *tables)
    if not found.sound:
        raise typer.Exit(EX_FAILED)
