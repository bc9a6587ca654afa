"""Bodies of the Open Inference Protocol over HTTP.

A tensor's values are in JSON, or raw after the JSON, which then ends where a header says; inputs may differ in that,
and so may outputs. A body may be compressed. Towards the service all values are raw.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import chain
from typing import Any

import numpy as np
from fastapi import Request, Response
from google.protobuf.message import Message

from gateway.bodies import read_counted
from inference import grpc_service_pb2 as pb
from runtime.rest.bodies import too_large
from runtime.rest.problems import Problem

JSON_LENGTH = "Inference-Header-Content-Length"

_LAYOUTS = {
    "BOOL": "?",
    "UINT8": "<u1",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_WORTH_PACKING = 1024
"""Bytes of an answer; a shorter one goes as it is, whatever the caller would take."""

_MOST_AXES = 4


def _bad(field: str, why: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, f"{field}: {why}", reason="INVALID_BODY")


async def infer_request(request: Request, max_bytes: int) -> tuple[pb.ModelInferRequest, dict[str, bool]]:
    """The gRPC request of a body, without the model's name; and which outputs are wanted raw, "" standing for all
    that are not named.

    Raises Problem: 413 for a body over the limit, 400 for one that is none of the protocol's.
    """
    body = await _read(request, max_bytes)
    length = request.headers.get(JSON_LENGTH, "")
    if length and not (length.isdecimal() and int(length) <= len(body)):
        raise _bad(JSON_LENGTH, f"is {length[:20]}; the body has {len(body)} bytes")
    head = int(length) if length else len(body)
    document = _object(body[:head])
    call = pb.ModelInferRequest(id=_text(document.get("id", ""), "id"))
    parameters = _mapping(document.get("parameters"), "parameters")
    raw_by_default = parameters.pop("binary_data_output", False) is True
    _set_parameters(call.parameters, parameters, "parameters")
    rest = memoryview(body)[head:]
    for at, tensor in enumerate(_list(document.get("inputs"), "inputs")):
        rest = _add_input(call, _mapping(tensor, f"inputs[{at}]"), f"inputs[{at}]", rest)
    if rest:
        raise _bad("inputs", f"leave {len(rest)} bytes of the body over")
    binary = {"": raw_by_default}
    for at, output in enumerate(_list(document.get("outputs") or [], "outputs")):
        field = f"outputs[{at}]"
        wanted = _mapping(output, field)
        name = _text(wanted.get("name"), f"{field}.name")
        given = _mapping(wanted.get("parameters"), f"{field}.parameters")
        binary[name] = given.pop("binary_data", raw_by_default) is True
        _set_parameters(call.outputs.add(name=name).parameters, given, f"{field}.parameters")
    return call, binary


def infer_response(answer: pb.ModelInferResponse, binary: Mapping[str, bool], accept_encoding: str) -> Response:
    """An answer as the caller wants its outputs."""
    document: dict[str, Any] = {"model_name": answer.model_name, "model_version": answer.model_version}
    if answer.id:
        document["id"] = answer.id
    document["parameters"] = {name: _parameter(value) for name, value in answer.parameters.items()}
    document["outputs"] = outputs = []
    parts: list[bytes] = []
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if binary.get(output.name, binary[""]):
            tensor["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        elif output.datatype == "BYTES":
            tensor["data"] = [each.decode("utf-8", "replace") for each in _elements(raw)]
        else:
            tensor["data"] = np.frombuffer(raw, _LAYOUTS[output.datatype]).tolist()
        outputs.append(tensor)
    head = json.dumps(document).encode()
    headers = {"content-type": "application/json"}
    if parts:
        headers |= {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}
    body = b"".join((head, *parts))
    for encoding in (each.partition(";")[0].strip() for each in accept_encoding.split(",")):
        if encoding in _WINDOWS and len(body) >= _WORTH_PACKING:
            packer = zlib.compressobj(wbits=_WINDOWS[encoding])
            body = packer.compress(body) + packer.flush()
            headers["content-encoding"] = encoding
            break
    return Response(body, headers=headers)


async def json_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """A body that is a JSON object, or nothing."""
    body = await _read(request, max_bytes)
    return _object(body) if body.strip() else {}


def as_json(message: Message) -> dict[str, Any]:
    """A message as the protocol has it in JSON: every field under its name, whole numbers as numbers."""
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = {str(key): _json_value(each, field) for key, each in value.items()}
        elif field.is_repeated:
            document[field.name] = [_json_value(each, field) for each in value]
        elif field.containing_oneof is None or message.HasField(field.name):
            document[field.name] = _json_value(value, field)
    return document


def _json_value(value: Any, field: Any) -> Any:
    if isinstance(value, Message):
        return as_json(value)
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value


async def _read(request: Request, max_bytes: int) -> bytes:
    body = await read_counted(request, max_bytes)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOWS:
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body may be gzip or deflate", reason="UNSUPPORTED_ENCODING"
        )
    unpacker = zlib.decompressobj(wbits=_WINDOWS[encoding])
    try:
        unpacked = unpacker.decompress(body, max_bytes + 1)  # never more, whatever it claims to hold
    except zlib.error as error:
        raise _bad("body", f"is not {encoding}: {error}") from error
    if len(unpacked) > max_bytes:
        raise too_large(f"the body holds more than {max_bytes} bytes")
    if not unpacker.eof:
        raise _bad("body", f"is cut off: its {encoding} does not end")
    return unpacked


def _add_input(call: pb.ModelInferRequest, tensor: dict[str, Any], field: str, rest: memoryview) -> memoryview:
    """Add an input; returns what of the raw values is left."""
    name = _text(tensor.get("name"), f"{field}.name")
    datatype = _text(tensor.get("datatype"), f"{field}.datatype")
    shape = _list(tensor.get("shape"), f"{field}.shape")
    if not all(type(axis) is int and 0 <= axis < 2**63 for axis in shape):
        raise _bad(f"{field}.shape", "must be whole numbers, 0 or more")
    parameters = _mapping(tensor.get("parameters"), f"{field}.parameters")
    size = parameters.pop("binary_data_size", None)
    added = call.inputs.add(name=name, datatype=datatype, shape=shape)
    _set_parameters(added.parameters, parameters, f"{field}.parameters")
    if "data" in tensor:
        call.raw_input_contents.append(_packed(tensor["data"], datatype, f"{field}.data"))
        return rest
    if size is None:
        call.raw_input_contents.append(b"")
        return rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise _bad(f"{field}.parameters.binary_data_size", f"is {size}; {len(rest)} bytes are left of the body")
    call.raw_input_contents.append(bytes(rest[:size]))
    return rest[size:]


def _packed(data: Any, datatype: str, field: str) -> bytes:
    if datatype not in _LAYOUTS:
        raise _bad(field, f"{datatype[:20]} is no type of an input")
    values = _list(data, field)
    for _ in range(_MOST_AXES):  # flat, or nested by axis
        if not values or not isinstance(values[0], list):
            break
        if not all(isinstance(each, list) for each in values):
            raise _bad(field, "must have lists of one depth")
        values = list(chain.from_iterable(values))
    layout = np.dtype(_LAYOUTS[datatype])
    kinds: Iterable[type] = {"f": (float, int), "b": (bool,)}.get(layout.kind, (int,))
    if not set(map(type, values)) <= set(kinds):
        raise _bad(field, f"must be values of {datatype}")
    try:
        with np.errstate(over="ignore"):  # the service refuses what is not finite, and names it
            return np.array(values, layout).tobytes()
    except OverflowError as error:
        raise _bad(field, f"has a value that {datatype} cannot hold") from error


def _set_parameters(target: Any, given: Mapping[str, Any], field: str) -> None:
    for name, value in given.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}.get(type(value))
        try:
            if kind is None:
                raise ValueError
            setattr(target[name], kind, value)
        except ValueError as error:
            raise _bad(f"{field}.{name[:80]}", "must be a truth value, a number or a text") from error


def _parameter(value: pb.InferParameter) -> Any:
    kind = value.WhichOneof("parameter_choice")
    return getattr(value, kind) if kind else None


def _elements(raw: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        yield raw[at + 4 : end]
        at = end


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}", reason="NOT_JSON") from error
    return _mapping(document, "body")


def _mapping(value: Any, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(field, "must be an object")
    return dict(value)


def _list(value: Any, field: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _bad(field, "must be a list")
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _bad(field, "must be a text")
    return value
