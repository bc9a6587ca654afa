"""`quantmesh streams groups drop` and `quantmesh streams rebalance`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from runtime.cli.output import EX_FAILED, show, table
from runtime.redis_client import Client
from streams.catalog import Catalog
from streams.cli.place import confirm, run
from streams.operations import groups
from streams.operations.inspect import states_of
from streams.repartition import Moved
from streams.repartition import repartition as add_partitions


def drop_group(catalog_path: Path | None, stream: str, group: str, yes: bool, as_json: bool) -> None:
    """Mark a group as dropped."""
    confirm(yes, f"Give up group {group} of {stream}? What it has not read may be trimmed.")

    async def work(redis: Client, catalog: Catalog) -> None:
        await groups.drop_group(redis, catalog.stream(stream), group, catalog.partitions)

    run(catalog_path, as_json, work)
    show(
        as_json,
        {"stream": stream, "group": group, "dropped": True},
        f"Nobody waits for group {group} of {stream} any more, until a member of it comes back.",
    )


def repartition(catalog_path: Path | None, partitions: int, yes: bool, as_json: bool) -> None:
    """Add partitions, and show what was moved."""
    confirm(yes, f"Grow to {partitions} partitions? Every process must be stopped, and the data saved.")

    async def work(redis: Client, catalog: Catalog) -> Moved:
        return await add_partitions(redis, catalog, partitions)

    moved = asdict(run(catalog_path, as_json, work))
    show(
        as_json,
        moved,
        table(f"Set QUANTMESH_PARTITIONS={partitions} everywhere", ("what", "count"), list(moved.items())),
    )


def rebalance(catalog_path: Path | None, stream: str, group: str | None, wait_s: float, as_json: bool) -> None:
    """End the leases, and show who has what afterwards."""

    async def work(redis: Client, catalog: Catalog) -> tuple[str, list[dict[str, Any]]]:
        definition = catalog.stream(stream)
        name = group or definition.group
        found = await groups.rebalance(redis, definition, name, catalog.partitions, wait_s)
        states = states_of(name, found)
        return name, [{"partition": n, "owner": state.owner, "epoch": state.epoch} for n, state in enumerate(states)]

    name, owners = run(catalog_path, as_json, work)
    rows = [(row["partition"], row["owner"] or None, row["epoch"]) for row in owners]
    show(
        as_json,
        {"stream": stream, "group": name, "partitions": owners},
        table(f"Group {name} of {stream}", ("partition", "owner", "epoch"), rows),
    )
    if not all(row["owner"] for row in owners):
        typer.echo(f"not every partition has an owner after {wait_s:g} s", err=True)
        raise typer.Exit(EX_FAILED)
