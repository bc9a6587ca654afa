"""ModelInfer of the Open Inference Protocol, as MLServer and Triton take it: messages made without their .proto.

Only the fields that the bench needs, in a descriptor pool of their own; the numbers are the protocol's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

METHOD = "/inference.GRPCInferenceService/ModelInfer"

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _INT64, _BYTES, _FLOAT, _MESSAGE = (
    _Field.TYPE_STRING,
    _Field.TYPE_INT64,
    _Field.TYPE_BYTES,
    _Field.TYPE_FLOAT,
    _Field.TYPE_MESSAGE,
)


def _message(name: str, *fields: tuple[str, int, Any, bool]) -> descriptor_pb2.DescriptorProto:
    """A message of fields (name, number, type or the name of a message, repeated)."""
    made = descriptor_pb2.DescriptorProto(name=name)
    for field, number, kind, repeated in fields:
        made.field.add(
            name=field,
            number=number,
            type=_MESSAGE if isinstance(kind, str) else kind,
            type_name=f".inference.{kind}" if isinstance(kind, str) else None,
            label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
        )
    return made


def _tensor(name: str) -> descriptor_pb2.DescriptorProto:
    return _message(
        name,
        ("name", 1, _STRING, False),
        ("datatype", 2, _STRING, False),
        ("shape", 3, _INT64, True),
        ("contents", 5, "Contents", False),
    )


def _classes() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="bench_oip.proto", package="inference", syntax="proto3")
    file.message_type.extend(
        [
            _message("Contents", ("fp32_contents", 6, _FLOAT, True)),
            _tensor("Input"),
            _tensor("Output"),
            _message(
                "ModelInferRequest",
                ("model_name", 1, _STRING, False),
                ("inputs", 5, "Input", True),
                ("raw_input_contents", 7, _BYTES, True),
            ),
            _message("ModelInferResponse", ("outputs", 5, "Output", True), ("raw_output_contents", 6, _BYTES, True)),
        ]
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request_type, response_type = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))
        for name in ("ModelInferRequest", "ModelInferResponse")
    )
    return request_type, response_type


_Request, _Response = _classes()


def request(model: str, rows: NDArray[np.float32], raw: bool = True) -> bytes:
    """A serialised ModelInferRequest of rows; `raw` packs them as bytes, which is what Triton's own client does."""
    made = _Request(model_name=model)
    tensor = made.inputs.add(name="rows", datatype="FP32", shape=rows.shape)
    if raw:
        made.raw_input_contents.append(np.ascontiguousarray(rows, "<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    return bytes(made.SerializeToString())


def predictions(answer: bytes) -> NDArray[np.float64]:
    """The predictions of a serialised ModelInferResponse."""
    response = _Response.FromString(answer)
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], "<f4").astype(np.float64)
    return np.asarray(response.outputs[0].contents.fp32_contents, np.float64)
