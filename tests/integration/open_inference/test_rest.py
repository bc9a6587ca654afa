"""/v2 as any HTTP client sees it: JSON with nested data, limits, compression, and errors of the protocol's shape."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.inference_svc.models import ridge, rows
from tests.integration.open_inference.conftest import Serve
from tests.integration.open_inference.models import direct

X = rows(2).astype(np.float32)
TENSOR: dict[str, Any] = {"name": "X", "datatype": "FP32", "shape": [2, 3], "data": X.tolist()}
INFER = "/v2/models/champion/infer"


@pytest.fixture
def protocol() -> str:
    return "http"


@asynccontextmanager
async def rest_of(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve(ridge(1.0)) as triton,
        httpx.AsyncClient(base_url=f"http://{triton.url}", trust_env=False) as rest,
    ):
        yield rest


async def test_json_in_and_out(serve: Serve, protocol: str) -> None:
    async with rest_of(serve) as rest:
        answer = await rest.post(INFER, json={"id": "a", "inputs": [TENSOR]})
        ready = await rest.get("/v2/models/momentum/ready")
        unknown = await rest.get("/v2/models/carry/ready")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    expected = direct(ridge(1.0), {"X": X})["variable"]
    assert document["outputs"] == [
        {"name": "variable", "datatype": "FP32", "shape": [2, 1], "data": expected.ravel().tolist()}
    ]
    assert (document["id"], document["model_name"]) == ("a", "champion")
    assert document["parameters"] == {"generation": 1, "batch_rows": 2}
    assert (ready.status_code, ready.json()) == (200, {"name": "momentum", "ready": True})
    assert unknown.status_code == 404


async def test_a_long_answer_is_packed_when_asked_for(serve: Serve, protocol: str) -> None:
    x = rows(500)
    tensor = {"name": "X", "datatype": "FP64", "shape": list(x.shape), "data": x.ravel().tolist()}
    body = gzip.compress(json.dumps({"inputs": [tensor]}).encode())
    async with rest_of(serve) as rest:
        for asked in ("gzip", "deflate"):
            headers = {"content-encoding": "gzip", "accept-encoding": asked}
            answer = await rest.post(INFER, content=body, headers=headers)
            assert answer.headers["content-encoding"] == asked
            assert len(answer.json()["outputs"][0]["data"]) == 500  # httpx unpacks


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"data": [[1, 2, 3]]}, 400, 'inputs["X"]: has 12 bytes'),
        ({"data": ["1"] * 6}, 400, "inputs[0].data: must be values of FP32"),
        ({"data": [True] * 6}, 400, "inputs[0].data: must be values of FP32"),
        ({"data": [1e300] * 6}, 400, 'inputs["X"][0][0]: is inf'),
        ({"data": [[1, 2, 3], 4, 5, 6]}, 400, "inputs[0].data: must have lists of one depth"),
        ({"data": None}, 400, "inputs[0].data: must be a list"),
        ({"shape": [-2, 3]}, 400, "inputs[0].shape: must be whole numbers"),
        ({"datatype": "BYTES"}, 400, "inputs[0].data: BYTES is no type of an input"),
        ({"name": 5}, 400, "inputs[0].name: must be a text"),
        ({"parameters": {"binary_data_size": 5}, "data": ...}, 400, "binary_data_size: is 5; 0 bytes are left"),
    ],
    ids=["few", "texts", "booleans", "too big", "ragged", "null", "shape", "type", "name", "size"],
)
async def test_a_fault_of_the_body_is_told_as_the_protocol_has_it(
    serve: Serve, protocol: str, change: dict[str, Any], status: int, text: str
) -> None:
    tensor = {name: value for name, value in (TENSOR | change).items() if value is not ...}
    async with rest_of(serve) as rest:
        answer = await rest.post(INFER, json={"inputs": [tensor]})
    assert (answer.status_code, text in answer.json()["error"]) == (status, True), answer.text


async def test_bodies_that_are_none_are_refused(serve: Serve, protocol: str) -> None:
    packed = {"content-encoding": "gzip"}
    async with rest_of(serve) as rest:
        bomb = await rest.post(INFER, content=gzip.compress(b" " * 5_000_000), headers=packed)
        no_gzip = await rest.post(INFER, content=b"{}", headers=packed)
        cut = await rest.post(INFER, content=gzip.compress(b"{}")[:-9], headers=packed)
        other = await rest.post(INFER, content=b"{}", headers={"content-encoding": "br"})
        no_json = await rest.post(INFER, content=b"{")
        head = await rest.post(INFER, content=b"{}", headers={"Inference-Header-Content-Length": "9"})
        left_over = await rest.post(
            INFER, content=b'{"inputs":[]}123', headers={"Inference-Header-Content-Length": "13"}
        )
        trace = await rest.get("/v2/trace/setting")
    answers = (bomb, no_gzip, cut, other, no_json, head, left_over, trace)
    assert [each.status_code for each in answers] == [413, 400, 400, 415, 400, 400, 400, 501]
    assert all(each.json()["error"] and each.json()["reason"] for each in answers)
