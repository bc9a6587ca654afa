"""`quantmesh shadow pairs`: reads the newest pairs, and says what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from inference_svc.shadow.recorder import stream_of
from inference_svc.shadow.summary import Summary, distinct, summarize
from modelstore.deployments import DeploymentStore
from modelstore.names import is_digest, is_strategy
from modelstore.replicas import ReplicaBoard
from quantmesh.streams.v1.shadow_pair_pb2 import ShadowPair
from runtime.cli import output
from runtime.redis_client import Client
from runtime.times import to_us
from streams import Catalog
from streams.cli.place import run as on_the_mesh
from streams.operations import tail

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Found:
    pairs: Sequence[ShadowPair]
    rows_scored: int
    rows_dropped: int


def run(strategy: str, last: int, challenger: str | None, as_json: bool) -> None:
    """Print the pairs and their summary; exit code 1 when there are none."""
    if not is_strategy(strategy):
        raise typer.BadParameter(f"{strategy[:80]!r} is no name of a strategy", param_hint="STRATEGY")
    if challenger is not None and not is_digest(challenger):
        raise typer.BadParameter(
            f"{challenger[:80]!r} is no digest: 64 lower-case hexadecimal characters, as `quantmesh status` shows them",
            param_hint="--challenger",
        )

    async def work(redis: Client, catalog: Catalog) -> _Found:
        return await _find(redis, catalog, strategy, last, challenger)

    found = on_the_mesh(None, as_json, work)
    summary = summarize(found.pairs)
    newest = found.pairs[-1] if found.pairs else ShadowPair()
    facts = {
        "strategy": strategy,
        "champion_version": newest.champion.model_version,
        "challenger_version": newest.challenger.model_version,
        **_plain(summary),
        "rows_scored": found.rows_scored,
        "rows_dropped": found.rows_dropped,
    }
    columns = ("scored_at", "request_id", "row", "symbol", "champion", "challenger")
    lines = [_line(pair) for pair in found.pairs[-_SHOWN:]]
    output.show(
        as_json,
        {"summary": facts, "pairs": [_as_json(pair) for pair in found.pairs] if as_json else []},
        output.table("Champion and challenger", ("", ""), [(name, _shown(value)) for name, value in facts.items()]),
        output.table(f"The newest of {len(found.pairs)} pairs", columns, lines),
    )
    if not found.pairs:
        typer.echo(f"no pairs of {strategy!r} yet: `quantmesh status --json` says how its challenger stands", err=True)
        raise typer.Exit(output.EX_FAILED)


async def _find(redis: Client, catalog: Catalog, strategy: str, last: int, challenger: str | None) -> _Found:
    stream = catalog.stream(stream_of(strategy))
    records, _ = await tail.newest(redis, stream, range(catalog.partitions), last)
    pairs = []
    for record in records:
        try:
            pairs.append(ShadowPair.FromString(record.payload))
        except DecodeError:  # somebody else's
            continue
    if challenger is not None:
        pairs = [pair for pair in pairs if pair.challenger.model_version == challenger]
    pairs.sort(key=lambda pair: to_us(pair.scored_at))  # partitions are written side by side
    # Of one champion and one challenger: what others made of other rows is not to be compared.
    pairs = [pair for pair in pairs if _versions(pair) == _versions(pairs[-1])]
    deployment = await DeploymentStore(redis).get(strategy)
    states = await ReplicaBoard(redis).statuses(deployment) if deployment is not None else []
    shadows = [state.shadow for state in states if state.shadow is not None]
    return _Found(
        distinct(pairs), sum(each.rows_scored for each in shadows), sum(each.rows_dropped for each in shadows)
    )


def _versions(pair: ShadowPair) -> tuple[str, str]:
    return pair.champion.model_version, pair.challenger.model_version


def _plain(summary: Summary) -> dict[str, Any]:
    flat = asdict(summary)
    for side in ("champion", "challenger"):
        flat |= {f"{side}_{name}": value for name, value in flat.pop(side).items()}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in flat.items()
    }


def _shown(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _as_json(pair: ShadowPair) -> dict[str, Any]:
    return MessageToDict(pair, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _line(pair: ShadowPair) -> Sequence[object]:
    return (
        pair.scored_at.ToJsonString(),
        pair.request_id,
        pair.row,
        pair.symbol,
        f"{pair.champion.prediction:+.6g}",
        f"{pair.challenger.prediction:+.6g}",
    )
