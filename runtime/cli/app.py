"""The commands, their arguments and their help. What each does is in a module of its own."""

from __future__ import annotations

from importlib.metadata import version as version_of
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
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 69 Redis does not answer, 78 wrong settings.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts; logs go to standard error.")]
InferenceAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="QUANTMESH_INFERENCE_ADDRESS",
        help="inference_svc, or its replicas as HOST:PORT,HOST:PORT; default: the running mesh's.",
    ),
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
RequestId = Annotated[
    str | None,
    typer.Option(
        "--request-id",
        help="Identity of the change; default: one is made. Asked for again with the same, it is not made twice.",
    ),
]


Version = Annotated[
    str,
    typer.Argument(help="Digest of a registered model, all 64 characters: registering answers it.", show_default=False),
]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "Examples:\n\n" + "\n\n".join(f"  $ {line}" for line in lines)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quantmesh {version_of('quantmesh')}")
        raise typer.Exit


@app.callback()
def quantmesh(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


@app.command(
    epilog=examples(
        "quantmesh up", "quantmesh up --replicas 3", "QUANTMESH_GATEWAY_PORT=8080 quantmesh up", "quantmesh up --json"
    )
)
def up(
    replicas: Annotated[
        int | None,
        typer.Option(
            "--replicas",
            min=1,
            max=64,
            help="Replicas of inference_svc, behind Envoy when there are several; default: QUANTMESH_REPLICAS, or 1.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the mesh: an embedded Redis, three gRPC services and the gateway. Ctrl-C stops all; twice kills all."""
    from runtime.cli import up as command

    command.run(replicas, as_json)


@app.command(epilog=examples("quantmesh status", "quantmesh status --json"))
def status(as_json: Json = False) -> None:
    """Show the processes, the health of each port, the deployments and the loaded models. Exit code 1 if any is ill."""
    from runtime.cli import status as command

    command.run(as_json)


@app.command(
    # A negative number is a feature, not an option. What else looks like an option is looked at by the command.
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "quantmesh predict .01 .02 .05 .1 .2 .02 .02 .01 1 1 1 60 1 -.03 .03 .2 .1",
        "echo '[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 50, 0, 0, 0, 0, 0]' > row.json",
        "quantmesh predict --model us_equities@champion --file row.json --json",
        "quantmesh predict --file - < row.json",
    ),
)
def predict(
    ctx: typer.Context,
    features: Annotated[
        list[str] | None, typer.Argument(help="One number for each feature, in the model's order.", show_default=False)
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

    command.run(ctx, features or [], file, model, address, as_json)


models = typer.Typer(rich_markup_mode="rich")
app.add_typer(models, name="models")


@models.callback(
    invoke_without_command=True,
    epilog=examples("quantmesh models", "quantmesh models --json", "quantmesh models register momentum-net"),
)
def list_models(ctx: typer.Context, address: InferenceAddress = None, as_json: Json = False) -> None:
    """List the models that inference has loaded, or register one."""
    if ctx.invoked_subcommand is None:
        from runtime.cli import models as command

        command.run(address, as_json)


@models.command(
    epilog=examples(
        "quantmesh convert model.txt --rows sample.csv --name momentum-net …  # writes the folder momentum-net",
        "quantmesh models register momentum-net",
        "quantmesh models register other/model.onnx --manifest manifest.json --json",
    )
)
def register(
    model: Annotated[
        Path,
        typer.Argument(
            help="A folder with model.onnx and manifest.json, as `quantmesh convert` writes, or an ONNX file.",
            show_default=False,
        ),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", help="ModelManifest as JSON; default: manifest.json beside the ONNX file."),
    ] = None,
    request_id: RequestId = None,
    address: MlopsAddress = None,
    as_json: Json = False,
) -> None:
    """Store a model with its manifest; answers its version, for `quantmesh promote`. Nothing serves it yet."""
    from runtime.cli import register as command

    command.run(model, manifest, request_id, address, as_json)


@app.command(
    epilog=examples(
        "quantmesh status  # the digests and generations of what is deployed",
        "quantmesh promote us_equities $DIGEST --expected-generation 3",
        "quantmesh promote us_equities $DIGEST --reason 'better out of sample'",
    )
)
def promote(
    strategy: Strategy,
    version: Version,
    expected_generation: Generation = None,
    reason: Reason = "",
    request_id: RequestId = None,
    address: MlopsAddress = None,
    as_json: Json = False,
) -> None:
    """Make a registered version the champion of a strategy; answers when every replica serves it.

    Exit code 1 when not all of them do: the change is made, and they follow when they can.
    """
    from runtime.cli import deployments as command

    command.promote(strategy, version, expected_generation, reason, request_id, address, as_json)


@app.command(
    epilog=examples(
        "quantmesh rollback us_equities --expected-generation 3",
        "quantmesh rollback us_equities --reason 'drawdown over the limit'",
    )
)
def rollback(
    strategy: Strategy,
    expected_generation: Generation = None,
    reason: Reason = "",
    request_id: RequestId = None,
    address: MlopsAddress = None,
    as_json: Json = False,
) -> None:
    """Make the previous champion of a strategy the champion again; answers when every replica serves it.

    Two rollbacks undo each other: what the first demotes is what the second
    promotes. Pass --expected-generation, so that only one is made.

    Exit code 1 when not every replica serves it.
    """
    from runtime.cli import deployments as command

    command.rollback(strategy, expected_generation, reason, request_id, address, as_json)


@app.command(
    "envoy-config",
    epilog=examples(
        "quantmesh envoy-config 10.0.0.1:50052 10.0.0.2:50052 10.0.0.3:50052 > inference.json",
        "quantmesh envoy-config --listen 0.0.0.0:50052 --metrics-port 9102 inference-headless:50052",
    ),
)
def envoy_config(
    replicas: Annotated[
        list[str],
        typer.Argument(metavar="HOST:PORT...", help="The replicas; a name may stand for several.", show_default=False),
    ],
    listen: Annotated[
        str, typer.Option("--listen", metavar="IP:PORT", help="Where Envoy is to listen.")
    ] = "127.0.0.1:50052",
    admin: Annotated[Path, typer.Option("--admin", help="Unix socket of Envoy's admin interface.")] = Path(
        "/run/quantmesh/balancer.sock"
    ),
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=1, max=65535, help="Port of /metrics for Prometheus; default: none."),
    ] = None,
) -> None:
    """Print the configuration of an Envoy of yours in front of replicas of inference_svc: that of `up --replicas`."""
    from runtime.cli import envoy_config as command

    command.run(replicas, listen, admin, metrics_port)


def main() -> None:
    """Entry point of `quantmesh`."""
    app()
