"""`quantmesh streams ls`, `describe`, `lag` and `groups`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.cli.output import show, table
from runtime.redis_client import Client
from streams.catalog import Catalog, Stream
from streams.cli.place import chosen, run
from streams.operations.inspect import existing_streams, groups_of, lag_of, live_members, states_of
from streams.operations.snapshot import PartitionSnapshot, milliseconds, snapshots


def at(entry_id: str) -> str | None:
    """When an entry was appended, for a person; None for no entry."""
    if not entry_id or entry_id == "0-0":
        return None
    moment = datetime.fromtimestamp(milliseconds(entry_id) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def list_streams(catalog_path: Path | None, as_json: bool) -> None:
    """All streams, one line each."""

    async def work(redis: Client, catalog: Catalog) -> list[dict[str, Any]]:
        rows = {
            stream.name: await _summary(redis, catalog, stream) for stream in await existing_streams(redis, catalog)
        }
        for name, stream in catalog.streams.items():
            if "{" in name and not any(concrete.startswith(name.partition("{")[0]) for concrete in rows):
                rows[name] = _unused(catalog, stream)  # so that a new mesh shows all that it can have
        return list(rows.values())

    rows = run(catalog_path, as_json, work)
    columns = ("name", "payload", "delivery", "groups", "records", "lag_records", "lag_ms", "dead_letters")
    drawn = [[", ".join(row[c]) if c == "groups" else row[c] for c in columns] for row in rows]
    show(as_json, {"streams": rows}, table("Streams", columns, drawn))


async def _summary(redis: Client, catalog: Catalog, stream: Stream) -> dict[str, Any]:
    groups = await groups_of(redis, stream, catalog.partitions)
    partitions = await snapshots(redis, stream.name, groups, catalog.partitions)
    lags = [lag for group in groups if not (lag := lag_of(stream.name, group, partitions)).dropped]
    return {
        **_unused(catalog, stream),
        "groups": groups,
        "records": sum(partition.records for partition in partitions),
        "dead_letters": sum(partition.dead_letters for partition in partitions),
        "lag_records": max((lag.records for lag in lags), default=0),
        "lag_ms": max((lag.ms for lag in lags), default=0),
    }


def _unused(catalog: Catalog, stream: Stream) -> dict[str, Any]:
    return {
        "name": stream.name,
        "payload": stream.payload,
        "key": stream.key,
        "delivery": stream.delivery,
        "partitions": catalog.partitions,
        "groups": list(stream.groups),
        "records": 0,
        "dead_letters": 0,
        "lag_records": 0,
        "lag_ms": 0,
    }


def describe(catalog_path: Path | None, name: str, as_json: bool) -> None:
    """One stream: its definition and its partitions."""

    async def work(redis: Client, catalog: Catalog) -> tuple[Stream, list[PartitionSnapshot]]:
        stream = catalog.stream(name)
        return stream, await snapshots(redis, name, stream.groups, catalog.partitions)

    stream, found = run(catalog_path, as_json, work)
    definition = stream.model_dump(mode="json")
    partitions = [
        {
            "partition": partition.partition,
            "records": partition.records,
            "appended": partition.appended,
            "trimmed": max(0, partition.appended - partition.records),
            "oldest_at": at(partition.first_id),
            "newest_at": at(partition.last_id),
            "first_id": partition.first_id,
            "last_id": partition.last_id,
            "dead_letters": partition.dead_letters,
        }
        for partition in found
    ]
    columns = ("partition", "records", "appended", "trimmed", "oldest_at", "newest_at", "dead_letters")
    flat = {**definition, "groups": ", ".join(stream.groups), "retention": _retention(stream)}
    show(
        as_json,
        {"definition": definition, "partitions": partitions},
        table(f"Stream {name}", ("", ""), [(field, value) for field, value in flat.items() if value != ""]),
        table("Partitions", columns, [[partition[c] for c in columns] for partition in partitions]),
    )


def _retention(stream: Stream) -> str:
    retention = stream.retention
    if retention.policy == "drop_oldest":
        return f"drop_oldest, at most {retention.max_records} records in a partition"
    return f"committed by all groups, and {retention.keep_hours:g} hours"


def lag(catalog_path: Path | None, name: str | None, as_json: bool) -> None:
    """Each group of each stream."""

    async def work(redis: Client, catalog: Catalog) -> tuple[float, list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        for stream in await chosen(redis, catalog, name):
            groups = await groups_of(redis, stream, catalog.partitions)
            partitions = await snapshots(redis, stream.name, groups, catalog.partitions)
            for group in groups:
                found = lag_of(stream.name, group, partitions)
                over = found.ms > catalog.stream_max_lag_ms and not found.dropped
                rows.append({**asdict(found), "over_limit": over})
        return catalog.stream_max_lag_ms, rows

    limit_ms, rows = run(catalog_path, as_json, work)
    columns = ("stream", "group", "records", "ms", "pending", "dropped", "over_limit")
    title = f"Lag (the limit is {limit_ms:g} ms)"
    drawn = [[_yes(row[c]) for c in columns] for row in rows]
    show(as_json, {"stream_max_lag_ms": limit_ms, "groups": rows}, table(title, columns, drawn))


def _yes(value: object) -> object:
    return value if not isinstance(value, bool) else "yes" if value else ""


def groups(catalog_path: Path | None, name: str, as_json: bool) -> None:
    """The groups of one stream."""

    async def work(redis: Client, catalog: Catalog) -> list[dict[str, Any]]:
        stream = catalog.stream(name)
        names = await groups_of(redis, stream, catalog.partitions)
        partitions = await snapshots(redis, name, names, catalog.partitions)
        return [await _group(redis, stream, group, partitions) for group in names]

    rows = run(catalog_path, as_json, work)
    columns = ("partition", "owner", "epoch", "offset", "read", "lost", "pending", "lag_records", "lag_ms")
    tables = [
        table(
            _headline(row),
            columns,
            [[part[c] if part[c] != "" else None for c in columns] for part in row["partitions"]],
        )
        for row in rows
    ]
    show(as_json, {"stream": name, "groups": rows}, *tables)


async def _group(redis: Client, stream: Stream, group: str, partitions: list[PartitionSnapshot]) -> dict[str, Any]:
    found, states = lag_of(stream.name, group, partitions), states_of(group, partitions)
    return {
        "name": group,
        "declared": group in stream.groups,
        "mode": "work_queue" if any(state.is_work_queue for state in states) else "leases",
        "dropped": found.dropped,
        "members": await live_members(redis, stream.name, group, partitions),
        "records": found.records,
        "ms": found.ms,
        "partitions": [
            {
                "partition": partition,
                **{c: getattr(state, c) for c in ("owner", "epoch", "offset", "read", "lost", "pending", "dropped")},
                "lag_records": state.lag_records,
                "lag_ms": state.lag_ms,
            }
            for partition, state in enumerate(states)
        ],
    }


def _headline(row: dict[str, Any]) -> str:
    marks = [
        "" if row["declared"] else "not declared",
        "work queue" if row["mode"] == "work_queue" else "",
        "dropped" if row["dropped"] else "",
        f"behind {row['records']} records, {row['ms']} ms",
        f"members: {', '.join(row['members']) or 'none'}",
    ]
    return f"Group {row['name']} ({'; '.join(filter(None, marks))})"
