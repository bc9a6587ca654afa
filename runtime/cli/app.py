"""The commands, their arguments and their help. What each does is in a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli.extensions import ExtensibleGroup

app = typer.Typer(
    cls=ExtensibleGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Market data to point-in-time features, predictions and trading signals, exactly once.",
    epilog="Settings are environment variables, such as QUANTMESH_HOME and QUANTMESH_GATEWAY_PORT.\n\n"
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 78 wrong settings.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts; logs go to standard error.")]
InferenceAddress = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="inference_svc; default: the running mesh's.")
]
MlopsAddress = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="mlops_svc; default: the running mesh's.")
]
Strategy = Annotated[str, typer.Argument(help="The strategy whose deployment is changed.", show_default=False)]
Generation = Annotated[
    int | None,
    typer.Option("--expected-generation", min=0, help="Refuse if the deployment is at another generation by now."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"  $ {line}" for line in lines)


@app.command(epilog=_examples("quantmesh up", "QUANTMESH_GATEWAY_PORT=8080 quantmesh up", "quantmesh up --json"))
def up(as_json: Json = False) -> None:
    """Run the mesh: an embedded Redis, three gRPC services and the gateway. Ctrl-C stops all; twice kills all."""
    from runtime.cli import up as command

    command.run(as_json)


@app.command(epilog=_examples("quantmesh status", "quantmesh status --json"))
def status(as_json: Json = False) -> None:
    """Show the processes, the health of each port, the deployments and the loaded models. Exit code 1 if any is ill."""
    from runtime.cli import status as command

    command.run(as_json)


@app.command(
    # A negative number is a feature, not an option.
    context_settings={"ignore_unknown_options": True},
    epilog=_examples(
        "quantmesh predict 0.012 -0.004 0.31",
        "quantmesh predict --model equities@champion 0.012 -0.004 0.31",
        "quantmesh predict --file row.json --json",
        "quantmesh predict --file - < batch.json",
    ),
)
def predict(
    features: Annotated[
        list[float] | None, typer.Argument(help="One number for each feature, in the model's order.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="JSON to score instead: a list of numbers, a list of such rows, or a REST body; - is stdin."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Which model; default: champion, or the one that the file names.")
    ] = None,
    address: InferenceAddress = None,
    as_json: Json = False,
) -> None:
    """Score one row of features, or the rows of a file, by gRPC."""
    from runtime.cli import predict as command

    command.run(features or [], file, model, address, as_json)


@app.command(epilog=_examples("quantmesh models", "quantmesh models --json"))
def models(address: InferenceAddress = None, as_json: Json = False) -> None:
    """List the models that inference has loaded."""
    from runtime.cli import models as command

    command.run(address, as_json)


@app.command(
    epilog=_examples(
        "quantmesh promote equities 3f5a…64 characters…9c",
        "quantmesh promote equities 3f5a…9c --expected-generation 4 --reason 'better out of sample'",
    )
)
def promote(
    strategy: Strategy,
    version: Annotated[str, typer.Argument(help="Digest of a registered model.", show_default=False)],
    expected_generation: Generation = None,
    reason: Reason = "",
    address: MlopsAddress = None,
    as_json: Json = False,
) -> None:
    """Make a registered version the champion of a strategy; answers when every replica serves it."""
    from runtime.cli import deployments as command

    command.promote(strategy, version, expected_generation, reason, address, as_json)


@app.command(
    epilog=_examples("quantmesh rollback equities", "quantmesh rollback equities --reason 'drawdown over the limit'")
)
def rollback(
    strategy: Strategy,
    expected_generation: Generation = None,
    reason: Reason = "",
    address: MlopsAddress = None,
    as_json: Json = False,
) -> None:
    """Make the previous champion of a strategy the champion again; answers when every replica serves it."""
    from runtime.cli import deployments as command

    command.rollback(strategy, expected_generation, reason, address, as_json)


def main() -> None:
    """Entry point of `quantmesh`."""
    app()
