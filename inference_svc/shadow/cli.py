"""Score a challenger beside the champion, and compare what both made of the same rows."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.cli.app import Generation, Json, MlopsAddress, Reason, RequestId, Version, examples

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_show_locals=False
)

Strategy = Annotated[str, typer.Argument(help="The strategy whose champion is shadowed.", show_default=False)]


@app.callback()
def shadow() -> None:
    """Score a challenger beside the champion, and compare what both made of the same rows."""


@app.command(
    epilog=examples(
        "quantmesh models register momentum-net  # answers the digest",
        "quantmesh shadow start us_equities $DIGEST --reason 'trained to June'",
    )
)
def start(
    strategy: Strategy,
    version: Version,
    expected_generation: Generation = None,
    reason: Reason = "",
    request_id: RequestId = None,
    address: MlopsAddress = None,
    as_json: Json = False,
) -> None:
    """Make a registered version the challenger of a strategy; answers when every replica scores with it, or cannot.

    Exit code 1 when not all of them do: the change is made, and they follow when they can.
    """
    from runtime.cli import deployments as command

    command.start_shadow(strategy, version, expected_generation, reason, request_id, address, as_json)


@app.command(epilog=examples("quantmesh shadow stop us_equities --reason 'seen enough'"))
def stop(
    strategy: Strategy,
    expected_generation: Generation = None,
    reason: Reason = "",
    request_id: RequestId = None,
    address: MlopsAddress = None,
    as_json: Json = False,
) -> None:
    """Take the challenger of a strategy away. What was recorded stays."""
    from runtime.cli import deployments as command

    command.stop_shadow(strategy, expected_generation, reason, request_id, address, as_json)


@app.command(
    epilog=examples("quantmesh shadow pairs us_equities", "quantmesh shadow pairs us_equities --last 100000 --json")
)
def pairs(
    strategy: Strategy,
    last: Annotated[int, typer.Option("--last", min=1, help="How many of the newest pairs are looked at.")] = 10_000,
    challenger: Annotated[
        str | None,
        typer.Option(
            "--challenger", metavar="DIGEST", help="Only pairs of this challenger; default: of the newest pair's."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the newest pairs of champion and challenger; --json has each of them."""
    from inference_svc.shadow import command

    command.run(strategy, last, challenger, as_json)
