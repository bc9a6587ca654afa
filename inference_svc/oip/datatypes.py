"""Types of tensors: what the protocol calls them, how their values are laid out, and which field holds them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import model_config_pb2


@dataclass(frozen=True, slots=True)
class Datatype:
    """A type: the protocol's name, the layout of raw values, the field of typed ones, and its name in a configuration.

    `layout` is little-endian; None for BYTES, whose elements have each their own length.
    """

    name: str
    layout: np.dtype[Any] | None
    contents: str
    in_config: model_config_pb2.DataType.ValueType


_BYTES = Datatype("BYTES", None, "bytes_contents", model_config_pb2.TYPE_STRING)

BY_DTYPE: Mapping[str, Datatype] = {
    "float16": Datatype("FP16", np.dtype("<f2"), "", model_config_pb2.TYPE_FP16),
    "float32": Datatype("FP32", np.dtype("<f4"), "fp32_contents", model_config_pb2.TYPE_FP32),
    "float64": Datatype("FP64", np.dtype("<f8"), "fp64_contents", model_config_pb2.TYPE_FP64),
    "int8": Datatype("INT8", np.dtype("<i1"), "int_contents", model_config_pb2.TYPE_INT8),
    "int16": Datatype("INT16", np.dtype("<i2"), "int_contents", model_config_pb2.TYPE_INT16),
    "int32": Datatype("INT32", np.dtype("<i4"), "int_contents", model_config_pb2.TYPE_INT32),
    "int64": Datatype("INT64", np.dtype("<i8"), "int64_contents", model_config_pb2.TYPE_INT64),
    "uint8": Datatype("UINT8", np.dtype("<u1"), "uint_contents", model_config_pb2.TYPE_UINT8),
    "bool": Datatype("BOOL", np.dtype("?"), "bool_contents", model_config_pb2.TYPE_BOOL),
    "string": _BYTES,
}
"""By the dtype of a `TensorSpec`. An output of a type that is not here is no tensor of the protocol."""

_FLOATS = (BY_DTYPE["float32"], BY_DTYPE["float64"])


def accepted(dtype: str) -> Mapping[str, Datatype]:
    """Types that an input of a dtype takes, by name: its own, and for floats either."""
    own = BY_DTYPE[dtype]
    return {each.name: each for each in (_FLOATS if own in _FLOATS else (own,))}


def to_raw(values: NDArray[Any], datatype: Datatype) -> bytes:
    """Values as raw contents, row by row."""
    if datatype.layout is not None:
        return values.astype(datatype.layout, copy=False).tobytes()
    parts: list[bytes] = []
    for value in values.ravel():
        data = value if isinstance(value, bytes) else str(value).encode()
        parts += (struct.pack("<I", len(data)), data)
    return b"".join(parts)
