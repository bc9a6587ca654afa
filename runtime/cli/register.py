"""`quantmesh models register`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import typer
from google.protobuf import json_format

from quantmesh.mlops.v1.mlops_service_pb2 import RegisterModelHeader, RegisterModelRequest
from quantmesh.mlops.v1.mlops_service_pb2_grpc import MlopsServiceStub
from quantmesh.mlops.v1.model_pb2 import ModelManifest
from runtime import grpc_client
from runtime.cli import convert, places
from runtime.cli.output import call, fail, show, table

_DEADLINE_S = 60.0
_CHUNK_BYTES = 1 << 20  # the most that the service takes in one


def run(path: Path, manifest: Path | None, request_id: str | None, address: str | None, as_json: bool) -> None:
    """Register a model, from a folder with `model.onnx` and `manifest.json`, or from two files."""
    onnx_file = path / "model.onnx" if path.is_dir() else path
    manifest_file = manifest or onnx_file.with_name("manifest.json")
    for file in (onnx_file, manifest_file):
        if not file.is_file():
            raise typer.BadParameter(
                f"{file} is no file: a model is model.onnx with manifest.json beside it, as `quantmesh convert` writes "
                "them, or give --manifest"
            )
    onnx = onnx_file.read_bytes()
    header = RegisterModelHeader(
        manifest=_read(manifest_file, as_json),
        onnx_sha256=sha256(onnx).hexdigest(),
        request_id=request_id or uuid.uuid4().hex,
    )
    target, absent = places.find(as_json).mlops(address)

    async def work() -> dict[str, Any]:
        async with grpc_client.channel(target) as channel:
            answer = await MlopsServiceStub(channel).RegisterModel(_parts(header, onnx), timeout=_DEADLINE_S)
            return convert.registered(answer.model)

    model = call(work(), as_json, absent=absent, request_id=header.request_id)
    shown = ("version", "name", "strategy", "feature_set", "features", "onnx_sha256", "onnx_size_bytes")
    facts = {**model, "features": len(model["feature_names"])}
    show(as_json, {"model": model}, table("Registered", ("", ""), [(name, facts[name]) for name in shown]))


def _read(file: Path, as_json: bool) -> ModelManifest:
    try:
        return json_format.Parse(file.read_text(encoding="utf-8"), ModelManifest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        fail(as_json, "", f"{file} is no manifest (quantmesh.mlops.v1.ModelManifest): {error}", "NOT_A_MANIFEST")


def _parts(header: RegisterModelHeader, onnx: bytes) -> Iterator[RegisterModelRequest]:
    yield RegisterModelRequest(header=header)
    for start in range(0, len(onnx), _CHUNK_BYTES):
        yield RegisterModelRequest(chunk=onnx[start : start + _CHUNK_BYTES])
