"""`quantmesh predict`."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer

from quantmesh.inference.v1.inference_service_pb2 import BatchPredictRequest, FeatureRow, PredictRequest
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from runtime import grpc_client
from runtime.cli import convert, places
from runtime.cli.output import call, show, table

_DEADLINE_S = 10.0


def run(
    ctx: typer.Context,
    arguments: Sequence[str],
    file: Path | None,
    model: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Score the features, or the rows of the file, and print the answer."""
    rows: Any = _features(ctx, arguments)
    if bool(rows) == (file is not None):
        ctx.fail("give features as arguments, or --file, and not both")
    is_batch = False
    if file is not None:
        rows, is_batch, named = _read(file)
        model = model or named
    place = places.find(as_json)
    target, absent = place.inference(address)
    work = _predict_batch if is_batch else _predict
    answer = call(work(target, place.settings.max_message_bytes, model or "champion", rows), as_json, absent=absent)
    show(as_json, answer, table("Prediction", ("", ""), list(answer.items())))


async def _predict(address: str, max_message_bytes: int, model: str, features: list[float]) -> dict[str, Any]:
    async with grpc_client.channel(address, max_message_bytes) as channel:
        request = PredictRequest(model_name=model, features=features)
        return convert.prediction(await InferenceServiceStub(channel).Predict(request, timeout=_DEADLINE_S))


async def _predict_batch(address: str, max_message_bytes: int, model: str, rows: list[list[float]]) -> dict[str, Any]:
    async with grpc_client.channel(address, max_message_bytes) as channel:
        request = BatchPredictRequest(model_name=model, batch=[FeatureRow(features=row) for row in rows])
        return convert.predictions(await InferenceServiceStub(channel).BatchPredict(request, timeout=_DEADLINE_S))


def _features(ctx: typer.Context, arguments: Sequence[str]) -> list[float]:
    """The numbers among the arguments, which are all that did not look like an option of ours."""
    features = []
    for argument in arguments:
        try:
            feature = float(argument)
        except ValueError:
            if argument.startswith("-"):
                _no_such_option(ctx, argument.partition("=")[0])
            ctx.fail(f"{argument!r} is not a number")
        if not math.isfinite(feature):
            ctx.fail(f"{argument!r} is not a finite number")
        features.append(feature)
    return features


def _no_such_option(ctx: typer.Context, option: str) -> NoReturn:
    known = [name for parameter in ctx.command.params for name in parameter.opts if name.startswith("-")]
    meant = difflib.get_close_matches(option, known, 1)
    ctx.fail(f"no such option: {option}" + (f" (did you mean {meant[0]}?)" if meant else ""))


def _read(file: Path) -> tuple[list[Any], bool, str | None]:
    """A row or rows of a JSON file, whether it is rows, and the model that the file names."""
    try:
        content = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"--file {file}: {error}") from error
    named = None
    if isinstance(content, dict):
        named = content.get("model_name")
        is_batch = "batch" in content
        content = content.get("batch" if is_batch else "features")
    else:
        is_batch = isinstance(content, list) and bool(content) and isinstance(content[0], list)
    try:
        if not is_batch:
            return _row(content, "features"), False, named if isinstance(named, str) else None
        if not isinstance(content, list):
            raise ValueError("batch must be a list of rows")
        if not content:
            raise ValueError("the batch is empty")
        rows = [_row(row, f"batch[{index}]") for index, row in enumerate(content)]
    except ValueError as error:
        raise typer.BadParameter(f"--file {file}: {error}") from error
    return rows, True, named if isinstance(named, str) else None


def _row(value: object, where: str) -> list[float]:
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list of numbers")
    return [_number(cell, f"{where}[{index}]") for index, cell in enumerate(value)]


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must be a number, not {json.dumps(value)[:40]}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where} is not a finite number that a double can hold")
    return number
