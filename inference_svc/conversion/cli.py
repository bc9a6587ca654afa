"""Convert a trained model to ONNX, verified on sample rows, with a manifest: ready to register."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

if TYPE_CHECKING:  # what converts is imported when it runs, so that `--help` is quick
    from inference_svc.conversion.converting import Conversion
    from inference_svc.conversion.quantize import Int8Report

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_show_locals=False)


class Int8(StrEnum):
    """How to quantise."""

    DYNAMIC = "dynamic"
    STATIC = "static"


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"  $ quantmesh convert {line}" for line in lines)


@app.command(
    epilog=_examples(
        "model.txt --rows sample.csv --name booster --strategy momentum --feature-set equities_daily --unit fraction",
        "net.pt2 --trust-pickle --rows sample.npy --features f1,f2,f3 … --int8 static --out net-int8",
    )
    + "\n\nThen: `quantmesh models register FOLDER`. docs/conversion.md has more.",
)
def convert(
    model: Annotated[
        Path,
        typer.Argument(
            help="The saved model: .joblib or .pkl (scikit-learn, and estimators of LightGBM and XGBoost), .pt2 "
            "(torch.export.save), .keras, a SavedModel's folder, .txt (LightGBM), .json or .ubj (XGBoost).",
            show_default=False,
        ),
    ],
    rows: Annotated[
        Path,
        typer.Option("--rows", help="Sample rows to verify on, some hundreds: .npy, .csv (with a header), .parquet."),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the model, for people.")],
    strategy: Annotated[str, typer.Option("--strategy", help="Strategy that it is made for.")],
    feature_set: Annotated[str, typer.Option("--feature-set", help="Feature set that it was trained on.")],
    unit: Annotated[str, typer.Option("--unit", help="Unit of the prediction, such as fraction.")],
    features: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="NAME,…",
            help="Its features, in the order of its columns; default: as the model or the rows name them.",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for model.onnx, manifest.json and report.json; default: ./NAME."),
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Load a pickle, which [bold]runs whatever code its author put in[/]."),
    ] = False,
    rtol: Annotated[float, typer.Option("--rtol", min=0, help="Relative tolerance of the verification.")] = 1e-4,
    atol: Annotated[
        float | None,
        typer.Option(
            "--atol",
            min=0,
            help="Absolute tolerance; default: --rtol times the standard deviation of the original's predictions.",
            show_default=False,
        ),
    ] = None,
    int8: Annotated[
        Int8 | None,
        typer.Option("--int8", help="Quantise matrix products to int8; the report says what that costs."),
    ] = None,
    rank_correlation: Annotated[
        float,
        typer.Option("--rank-correlation", min=0, max=1, help="Least rank correlation of int8 with the original."),
    ] = 0.99,
    signal_threshold: Annotated[
        float, typer.Option("--signal-threshold", min=0, help="A prediction above it is LONG, below minus it SHORT.")
    ] = 0.0,
    training_cutoff: Annotated[
        str,
        typer.Option("--training-cutoff", metavar="INSTANT", help="Last instant whose data the training used (UTC)."),
    ] = "",
    training_data: Annotated[str, typer.Option("--training-data-sha256", help="Digest of the training data.")] = "",
    code_version: Annotated[str, typer.Option("--code-version", help="Version of the code that trained it.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the training.")] = 0,
    trial_count: Annotated[
        int, typer.Option("--trials", min=1, help="Configurations that were tried for it, this one included.")
    ] = 1,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME=NUMBER", help="A metric of the training; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Convert a trained model to ONNX. The ONNX model must answer as the original does on the sample rows.

    The frameworks are extras: pip install 'quantmesh\\[torch]', 'quantmesh\\[tensorflow]',
    'quantmesh\\[boosting]'; 'quantmesh\\[frames]' reads Parquet.
    """
    from inference_svc.conversion.converting import convert as convert_model
    from inference_svc.conversion.files import load_model, read_rows
    from inference_svc.conversion.frameworks import feature_names_of
    from inference_svc.conversion.verify import Tolerance
    from modelstore.manifest import Manifest
    from runtime.cli.output import fail, show
    from runtime.errors import QuantmeshError

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets on standard error
    folder = out or Path(name)
    given = tuple(each.strip() for each in features.split(",")) if features else ()
    try:
        loaded = load_model(model, trust_pickle)
        sampled, columns = read_rows(rows, given or feature_names_of(loaded))
        manifest = Manifest(
            name=name,
            strategy=strategy,
            feature_set=feature_set,
            feature_names=given or columns,
            prediction_unit=unit,
            signal_threshold=signal_threshold,
            training_data_sha256=training_data,
            training_cutoff_us=_microseconds(training_cutoff),
            code_version=code_version,
            seed=seed,
            trial_count=trial_count,
            metrics=_metrics(metric or []),
        )
        conversion = convert_model(
            loaded,
            sampled,
            manifest=manifest,
            tolerance=Tolerance(rtol, atol),
            int8=None if int8 is None else int8.value,
            least_rank_correlation=rank_correlation,
        )
        conversion.write(folder)
    except QuantmeshError as error:
        fail(as_json, "", error.message, error.reason, error.violations)
    show(as_json, {**conversion.report(), "folder": str(folder)}, *_drawn(conversion, folder))
    if not conversion.verification.varies:
        typer.echo("warning: the model gives the same for every sample row, so that little was verified", err=True)


def _microseconds(instant: str) -> int | None:
    if not instant:
        return None
    try:
        parsed = datetime.fromisoformat(instant)
    except ValueError as error:
        raise typer.BadParameter(f"{instant!r} is no instant such as 2018-12-31T21:00:00Z") from error
    aware = parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _metrics(given: list[str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, _, value in (each.partition("=") for each in given)}
    except ValueError as error:
        raise typer.BadParameter(f"a --metric is NAME=NUMBER: {error}") from error


def _drawn(conversion: Conversion, folder: Path) -> list[RenderableType]:
    from runtime.cli.output import table

    seen = conversion.verification
    batches = ", ".join(map(str, seen.batch_sizes))
    opsets = ", ".join(f"{domain} {version}" for domain, version in conversion.opsets.items())
    facts = [
        ("folder", folder),
        ("onnx_sha256", conversion.onnx_sha256),
        ("size_bytes", len(conversion.onnx)),
        ("framework", conversion.manifest.framework),
        ("opsets", opsets),
        ("verified on", f"{seen.rows} rows of {seen.features} float32 features, and in batches of {batches}"),
        ("tolerance", f"atol + {seen.rtol:g} |original|"),
        ("batch_effect", f"{seen.batch_effect:.3g}"),
        ("float32_effect", "-" if seen.float32_effect is None else f"{seen.float32_effect:.3g}"),
    ]
    outputs = [
        (each.name, f"{each.atol:.3g}", f"{each.max_abs_error:.3g}", f"{each.max_rel_error:.3g}")
        for each in seen.outputs
    ]
    outputs += [(each.name, "-", f"{each.differing} differ ({each.ties} ties)", "-") for each in seen.labels]
    drawn = [
        table("Conversion", ("", ""), facts),
        table("Outputs", ("output", "atol", "max_abs_error", "max_rel_error"), outputs),
    ]
    if conversion.int8 is not None:
        drawn.append(_drawn_int8(conversion.int8))
    return drawn


def _drawn_int8(report: Int8Report) -> RenderableType:
    from runtime.cli.output import table

    facts: list[tuple[str, object]] = [("mode", report.mode)]
    for each in report.outputs:
        facts += [
            (f"{each.name} max_abs_error", f"{each.max_abs_error:.3g}"),
            (f"{each.name} mean_abs_error", f"{each.mean_abs_error:.3g}"),
            (f"{each.name} rank_correlation", f"{each.rank_correlation:.6f}"),
        ]
    facts += [
        ("batch_effect", f"{report.batch_effect:.3g}"),
        ("bytes", f"{report.float_bytes} to {report.int8_bytes}"),
        ("speed, 1 row", f"{report.speed_one_row:.2f} times the float model's"),
        (f"speed, {report.timed_rows} rows", f"{report.speed_many_rows:.2f} times the float model's"),
    ]
    return table("int8, against the original", ("", ""), facts)
