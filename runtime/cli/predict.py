"""`quantmesh predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import typer

from quantmesh.inference.v1.inference_service_pb2 import BatchPredictRequest, FeatureRow, PredictRequest
from quantmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from runtime import grpc_client
from runtime.cli import convert, places
from runtime.cli.output import call, show, table
from runtime.process import load_settings
from runtime.settings import MeshSettings

_DEADLINE_S = 10.0


def run(features: list[float], file: Path | None, model: str | None, address: str | None, as_json: bool) -> None:
    """Score the features, or the rows of the file, and print the answer."""
    if bool(features) == (file is not None):
        _wrong("give features as arguments, or --file, and not both")
    rows: Any = features
    if file is not None:
        rows, named = _read(file)
        model = model or named
    is_batch = bool(rows) and isinstance(rows[0], list)
    settings = load_settings(MeshSettings)
    target = address or places.addresses(settings).inference
    work = _predict_batch if is_batch else _predict
    answer = call(work(target, settings.max_message_bytes, model or "champion", rows), as_json)
    show(as_json, answer, table("Prediction", ("", ""), list(answer.items())))


async def _predict(address: str, max_message_bytes: int, model: str, features: list[float]) -> dict[str, Any]:
    async with grpc_client.channel(address, max_message_bytes) as channel:
        request = PredictRequest(model_name=model, features=features)
        return convert.prediction(await InferenceServiceStub(channel).Predict(request, timeout=_DEADLINE_S))


async def _predict_batch(address: str, max_message_bytes: int, model: str, rows: list[list[float]]) -> dict[str, Any]:
    async with grpc_client.channel(address, max_message_bytes) as channel:
        request = BatchPredictRequest(model_name=model, batch=[FeatureRow(features=row) for row in rows])
        return convert.predictions(await InferenceServiceStub(channel).BatchPredict(request, timeout=_DEADLINE_S))


def _read(file: Path) -> tuple[list[Any], str | None]:
    """Rows of a JSON file, and the model that it names."""
    try:
        content = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text())
    except (OSError, ValueError) as error:
        _wrong(f"--file {file}: {error}")
    named = None
    if isinstance(content, dict):
        named = content.get("model_name")
        content = content.get("features", content.get("batch"))
    if not isinstance(content, list) or not (_is_row(content) or all(map(_is_row, content))):
        _wrong(f"--file {file}: wanted a list of numbers, or a list of lists of numbers")
    return content, named if isinstance(named, str) else None


def _is_row(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)


def _wrong(message: str) -> NoReturn:
    raise typer.BadParameter(message)
