"""Make recorded signals again from recorded vectors, bit for bit, and score any model on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)

_EXAMPLES = (
    "quantmesh replay --from 2019-01-17 --to 2019-01-18",
    "quantmesh replay --from 2019-01-17T21:00:00Z --to 2019-02-01T00:00:00Z --strategy us_equities --json",
    "quantmesh replay --from 2019-01-17 --to 2019-02-01 --model $DIGEST --out predictions.csv",
)


@app.command(
    epilog="Examples:\n\n"
    + "\n\n".join(f"  $ {line}" for line in _EXAMPLES)
    + "\n\nExit codes: 0 all reproduced, 1 not, or refused or failed, 2 wrong usage, 78 wrong settings.",
)
def replay(
    since: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TIME",
            help="The first `as_of` that is replayed: ISO 8601 with a zone, a date (midnight, UTC), or microseconds "
            "since 1970.",
            show_default=False,
        ),
    ],
    until: Annotated[
        str, typer.Option("--to", metavar="TIME", help="The first `as_of` that is not.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="DIGEST", help="Score this model on the same vectors too.", show_default=False),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="Only this strategy; default: all.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write one row a signal, to a .csv or a .parquet file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Make recorded signals again, bit for bit, from the vectors of features.pit and the models their receipts name."""
    from inference_svc.replay import command

    command.run(since, until, model, strategy, out, as_json)
