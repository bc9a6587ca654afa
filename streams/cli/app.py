"""The commands of `quantmesh streams`, their arguments and their help. What each does is in a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"  $ quantmesh streams {line}" for line in lines)


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    add_completion=False,
    help="Look at streams, verify them, care for their groups and dead letters.",
    epilog="Redis is QUANTMESH_REDIS_URL, or that of the running mesh.\n\n"
    "Exit codes: 0 done, 1 refused, failed or not sound, 2 wrong usage, 78 wrong settings.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="Such as orders, or signals.momentum.")]
AnyStream = Annotated[
    str | None, typer.Argument(metavar="[STREAM]", help="Such as orders; default: all.", show_default=False)
]
GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="A group that reads the stream.")]
Partition = Annotated[int | None, typer.Option("--partition", min=0, help="Only this one.")]
Reason = Annotated[str, typer.Option("--reason", help="Only letters with this reason, such as LOOK_AHEAD.")]
Letters = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LETTER]...", help="Such as 2/1764057600000-0, as `dlq list` shows.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="Every letter of the stream.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.callback()
def main(
    ctx: typer.Context,
    catalog: Annotated[
        Path | None,
        typer.Option("--catalog", exists=True, dir_okay=False, help="A streams.yaml of your own; default: the mesh's."),
    ] = None,
) -> None:
    """Keep what all commands share."""
    ctx.obj = catalog


@app.command("ls", epilog=_examples("ls", "ls --json"))
def list_streams(ctx: typer.Context, as_json: Json = False) -> None:
    """List the streams: how much is in each, and how far the slowest group is behind."""
    from streams.cli import looking

    looking.list_streams(ctx.obj, as_json)


@app.command(epilog=_examples("describe orders", "describe signals.momentum --json"))
def describe(ctx: typer.Context, stream: StreamName, as_json: Json = False) -> None:
    """Show what a stream promises, and what is in its partitions."""
    from streams.cli import looking

    looking.describe(ctx.obj, stream, as_json)


@app.command(
    epilog=_examples(
        "tail features.pit",
        "tail orders -n 100 --json",
        "tail fills --from-beginning",
        "tail signals.momentum --follow",
    )
)
def tail(
    ctx: typer.Context,
    stream: StreamName,
    lines: Annotated[
        int | None, typer.Option("-n", "--lines", min=0, help="How many; default: the last 10.", show_default=False)
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with the oldest, and show all (or the first -n).")
    ] = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    partition: Partition = None,
    as_json: Json = False,
) -> None:
    """Print records, decoded, in the order of their entries. With --json, one object on each line."""
    from streams.cli import tailing

    tailing.tail(ctx.obj, stream, lines, partition, as_json, from_beginning=from_beginning, follow=follow)


@app.command(epilog=_examples("lag", "lag features.raw --json"))
def lag(ctx: typer.Context, stream: AnyStream = None, as_json: Json = False) -> None:
    """Show how far each group is behind: in records, and the age of the oldest one in milliseconds."""
    from streams.cli import looking

    looking.lag(ctx.obj, stream, as_json)


class _ShowByDefault(TyperGroup):
    """`groups orders` is short for `groups show orders`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command where it was left out."""
        if args and "--help" not in args and args[0] not in self.commands:
            args = ["show", *args]
        return super().parse_args(ctx, args)


groups = typer.Typer(
    cls=_ShowByDefault,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Show who reads a stream (`groups STREAM`), or give a group up.",
)
app.add_typer(groups, name="groups")


@groups.command("show", epilog=_examples("groups orders", "groups orders --json"))
def show_groups(ctx: typer.Context, stream: StreamName, as_json: Json = False) -> None:
    """Show the groups of a stream: live members, and for each partition owner, epoch, offset and backlog."""
    from streams.cli import looking

    looking.groups(ctx.obj, stream, as_json)


@groups.command("drop", epilog=_examples("groups drop orders order_manager --yes"))
def drop_group(
    ctx: typer.Context, stream: StreamName, group: GroupName, yes: Yes = False, as_json: Json = False
) -> None:
    """Give a group up: producers and retention wait for it no longer, until a member of it comes back.

    What is trimmed meanwhile is lost to the group. Refused while a member is alive.
    """
    from streams.cli import changing

    changing.drop_group(ctx.obj, stream, group, yes, as_json)


@app.command(epilog=_examples("rebalance features.raw", "rebalance orders order_manager --json"))
def rebalance(
    ctx: typer.Context,
    stream: StreamName,
    group: Annotated[
        str | None, typer.Argument(metavar="[GROUP]", help="Default: the stream's first group.", show_default=False)
    ] = None,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="How long to wait for owners, seconds.")] = 5.0,
    as_json: Json = False,
) -> None:
    """End all leases of a group, so that its members take their fair share again. Exit code 1 when one stays free."""
    from streams.cli import changing

    changing.rebalance(ctx.obj, stream, group, wait_s, as_json)


@app.command(epilog=_examples("repartition 8 --yes"))
def repartition(
    ctx: typer.Context,
    partitions: Annotated[int, typer.Argument(help="The new number, higher than the present one.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Add partitions, while everything is drained and stopped; docs/streams.md has the procedure."""
    from streams.cli import changing

    changing.repartition(ctx.obj, partitions, yes, as_json)


@app.command(epilog=_examples("verify orders", "verify features.pit --json"))
def verify(ctx: typer.Context, stream: StreamName, as_json: Json = False) -> None:
    """Audit a stream: gaps, duplicates, order for each key, payloads. Exit code 1 when something is wrong."""
    from streams.cli import verifying

    verifying.verify(ctx.obj, stream, as_json)


dlq = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Dead letters: records that were given up on.")
app.add_typer(dlq, name="dlq")


@dlq.command("list", epilog=_examples("dlq list", "dlq list features.raw --reason LOOK_AHEAD --json"))
def list_letters(
    ctx: typer.Context,
    stream: AnyStream = None,
    partition: Partition = None,
    reason: Reason = "",
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="Show at most so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List dead letters, the oldest of each partition first."""
    from streams.cli import letters

    letters.list_letters(ctx.obj, stream, partition, reason, limit, as_json)


@dlq.command("show", epilog=_examples("dlq show features.raw 2/1764057600000-0"))
def show_letter(
    ctx: typer.Context,
    stream: StreamName,
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="Such as 2/1764057600000-0.")],
    as_json: Json = False,
) -> None:
    """Show one dead letter whole: what was wrong, and the original record."""
    from streams.cli import letters

    letters.show_letter(ctx.obj, stream, letter, as_json)


@dlq.command(
    "replay",
    epilog=_examples(
        "dlq replay features.raw 2/1764057600000-0",
        "dlq replay features.raw --reason LOOK_AHEAD",
        "dlq replay features.raw --all",
    ),
)
def replay_letters(
    ctx: typer.Context,
    stream: StreamName,
    letter: Letters = None,
    partition: Partition = None,
    reason: Reason = "",
    every: All = False,
    as_json: Json = False,
) -> None:
    """Put records back at the end of their stream, each once, and remove their letters.

    Every group of the stream reads them again, not only the one that gave them up.
    """
    from streams.cli import letters

    letters.replay(ctx.obj, stream, letter or [], partition, reason, as_json, every=every)


@dlq.command("drop", epilog=_examples("dlq drop features.raw 2/1764057600000-0 --yes", "dlq drop orders --all --yes"))
def drop_letters(
    ctx: typer.Context,
    stream: StreamName,
    letter: Letters = None,
    partition: Partition = None,
    reason: Reason = "",
    every: All = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove dead letters for good."""
    from streams.cli import letters

    letters.drop(ctx.obj, stream, letter or [], partition, reason, as_json, every=every, yes=yes)
