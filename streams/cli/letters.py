"""`quantmesh streams dlq`."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from runtime.cli.output import EX_FAILED, show, table
from runtime.redis_client import Client
from streams.catalog import Catalog
from streams.cli.place import chosen, confirm, run
from streams.operations import dead_letters
from streams.operations.dead_letters import Letter, LetterId, Replayed, Selection
from streams.operations.payloads import Payloads

_SHORT = 80


def list_letters(
    catalog_path: Path | None, name: str | None, partition: int | None, reason: str, limit: int, as_json: bool
) -> None:
    """The letters that match, and whether there are more than are shown."""

    async def work(redis: Client, catalog: Catalog) -> tuple[list[dict[str, Any]], bool]:
        found: list[dict[str, Any]] = []
        for stream in await chosen(redis, catalog, name):
            async for letter in dead_letters.letters(
                redis, stream.name, catalog.partitions, Selection(partition, reason)
            ):
                if len(found) == limit:
                    return found, True
                found.append({"stream": stream.name, **_about(letter)})
        return found, False

    found, more = run(catalog_path, as_json, work)
    columns = ("stream", "letter", "group", "reason", "attempts", "failed_at", "error")
    rows = [[str(letter[c])[:_SHORT] for c in columns] for letter in found]
    title = "Dead letters" if found else "Dead letters: none"
    title += f" (the first {limit}; there are more)" if more else ""
    show(as_json, {"letters": found, "more": more}, table(title, columns, rows))


def show_letter(catalog_path: Path | None, name: str, letter: str, as_json: bool) -> None:
    """One letter with its record."""

    async def work(redis: Client, catalog: Catalog) -> dict[str, Any]:
        stream = catalog.stream(name)
        selection = Selection(ids=(LetterId.parse(letter),))
        (found,) = [x async for x in dead_letters.letters(redis, name, catalog.partitions, selection)]
        return {
            "stream": name,
            **_about(found),
            "entry_id": found.message.entry_id,
            "traceparent": found.message.traceparent,
            "payload": Payloads(stream).as_json(found.message.payload),
            "payload_base64": base64.b64encode(found.message.payload).decode(),
        }

    data = run(catalog_path, as_json, work)
    show(as_json, data, table(f"Dead letter {letter} of {name}", ("", ""), list(data.items())))


def _about(letter: Letter) -> dict[str, Any]:
    message = letter.message
    return {
        "letter": str(letter.id),
        "group": message.group,
        "reason": message.reason,
        "error": message.error,
        "attempts": message.attempts,
        "failed_at": message.failed_at.ToJsonString() if message.HasField("failed_at") else None,
    }


def replay(
    catalog_path: Path | None,
    name: str,
    letters: list[str],
    partition: int | None,
    reason: str,
    as_json: bool,
    *,
    every: bool,
) -> None:
    """Put records back; exit code 1 when some could not be."""
    _require_choice(letters, partition, reason, every)

    async def work(redis: Client, catalog: Catalog) -> Replayed:
        selection = Selection(partition, reason, tuple(map(LetterId.parse, letters)))
        return await dead_letters.replay(redis, catalog, catalog.stream(name), selection)

    done = run(catalog_path, as_json, work)
    show(as_json, {"stream": name, **asdict(done)}, f"{done.replayed} records are back in {name}.")
    if done.foreign:
        typer.echo(f"{done.foreign} letters do not say that they came from {name}: they stay", err=True)
        raise typer.Exit(EX_FAILED)


def drop(
    catalog_path: Path | None,
    name: str,
    letters: list[str],
    partition: int | None,
    reason: str,
    as_json: bool,
    *,
    every: bool,
    yes: bool,
) -> None:
    """Remove letters for good."""
    _require_choice(letters, partition, reason, every)
    confirm(yes, f"Remove {'these' if letters else 'all matching'} dead letters of {name} for good?")

    async def work(redis: Client, catalog: Catalog) -> int:
        selection = Selection(partition, reason, tuple(map(LetterId.parse, letters)))
        return await dead_letters.drop(redis, catalog.stream(name).name, catalog.partitions, selection)

    count = run(catalog_path, as_json, work)
    show(as_json, {"stream": name, "dropped": count}, f"{count} dead letters of {name} are gone.")


def _require_choice(letters: list[str], partition: int | None, reason: str, every: bool) -> None:
    narrowed = bool(letters) or partition is not None or bool(reason)
    if every == narrowed:
        raise typer.BadParameter("name letters, --partition or --reason; or say --all, and nothing else")
