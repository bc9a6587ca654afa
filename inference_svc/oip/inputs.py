"""Reads a request: its tensors as rows, its terms, and what it asks for that is not done here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import grpc_service_pb2 as pb
from inference_svc.admission import USUAL, Priority, Terms
from inference_svc.oip.datatypes import Datatype
from inference_svc.oip.plan import Input, Plan
from inference_svc.predict import Predictor
from inference_svc.rows import Matrix, wrong_count
from runtime.errors import InvalidInputError
from runtime.validation import MAX_REQUEST_ID_CHARS

_PRIORITIES = {0: Priority.NORMAL, 1: Priority.HIGH, 2: Priority.NORMAL, 3: Priority.LOW}
PRIORITY_LEVELS, DEFAULT_PRIORITY = 3, 2

_MOST_INT64 = 2**53
"""Rows are float64 on their way: whole numbers beyond this would change."""

_UNSUPPORTED = {
    "sequence_id": "models keep no state between requests",
    "classification": "ask for the probabilities themselves",
    "shared_memory_region": "there is no shared memory here: send and take values in messages",
}


def check_id(value: str) -> None:
    """Check the request's identity."""
    if len(value) > MAX_REQUEST_ID_CHARS:
        raise InvalidInputError.of_field(
            "id", f"has {len(value)} characters; at most {MAX_REQUEST_ID_CHARS} are allowed"
        )


def terms(
    parameters: Mapping[str, pb.InferParameter], now: float, left_s: float | None, *, patient: bool = False
) -> Terms:
    """Terms of a request that came at `now` with so much time left. Raises InvalidInputError."""
    if not parameters and left_s is None and not patient:
        return USUAL
    priority = Priority.NORMAL
    deadline = None if left_s is None else now + left_s
    if parameters:
        _check_supported(parameters, "parameters")
        if "priority" in parameters:
            level = _whole(parameters["priority"])
            if level not in _PRIORITIES:
                raise InvalidInputError.of_field(
                    "parameters.priority", "must be 1 (high), 2 (normal), 3 (low), or 0 for the default"
                )
            priority = _PRIORITIES[level]
        if "timeout" in parameters:
            timeout_us = _whole(parameters["timeout"])
            if timeout_us is None or timeout_us < 0:
                raise InvalidInputError.of_field("parameters.timeout", "must be microseconds, or 0 for none")
            if timeout_us:
                until = now + timeout_us / 1_000_000
                deadline = until if deadline is None else min(deadline, until)
    return Terms(priority, deadline, patient)


def output_names(outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor]) -> list[str]:
    """Names of the wanted outputs."""
    for output in outputs:
        if output.parameters:
            _check_supported(output.parameters, f'outputs["{output.name}"].parameters')
    return [output.name for output in outputs]


def tensors(request: pb.ModelInferRequest, plan: Plan, predictor: Predictor) -> list[NDArray[Any]]:
    """Values of each input, in the order of the model's. All have the same number of rows.

    Raises InvalidInputError that names the input: UNKNOWN_INPUT, MISSING_INPUT, DATATYPE_MISMATCH, SHAPE_MISMATCH,
    FEATURE_COUNT_MISMATCH, CONTENTS_MISMATCH; ResourceExhaustedError (BATCH_TOO_LARGE).
    """
    given, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(given):
        raise InvalidInputError.of_field(
            "raw_input_contents",
            f"has {len(raw)} parts for {len(given)} inputs; needs one for each, or none",
            reason="CONTENTS_MISMATCH",
        )
    found: list[NDArray[Any] | None] = [None] * len(plan.inputs)
    for at, tensor in enumerate(given):
        place = plan.inputs_at.get(tensor.name)
        if place is None or found[place] is not None:
            why = "is given twice" if place is not None else f"the model takes {', '.join(plan.inputs_at)}"
            raise InvalidInputError.of_field(_field(tensor.name), why, reason="UNKNOWN_INPUT")
        found[place] = _values(tensor, raw[at] if raw else None, plan.inputs[place], plan, predictor)
    missing = [each.spec.name for each, values in zip(plan.inputs, found, strict=True) if values is None]
    if missing:
        raise InvalidInputError.of_field(_field(missing[0]), "is missing", reason="MISSING_INPUT")
    arrays = [values for values in found if values is not None]
    for each, values in zip(plan.inputs[1:], arrays[1:], strict=True):
        if len(values) != len(arrays[0]):
            raise InvalidInputError.of_field(
                _field(each.spec.name),
                f"has {len(values)} rows, {plan.inputs[0].spec.name} has {len(arrays[0])}",
                reason="SHAPE_MISMATCH",
            )
    return arrays


def rows_of(arrays: Sequence[NDArray[Any]]) -> Matrix:
    """Inputs side by side, [rows, columns]."""
    if len(arrays) == 1 and arrays[0].ndim == 2:
        return arrays[0].astype(np.float64, copy=False)
    return np.concatenate(
        [each.reshape(len(each), -1).astype(np.float64, copy=False) for each in arrays], axis=1, dtype=np.float64
    )


def feed(arrays: Sequence[NDArray[Any]], plan: Plan) -> dict[str, NDArray[Any]]:
    """Inputs of the graph, each in its own type. The rows are to have been checked."""
    return {
        each.spec.name: np.ascontiguousarray(values, dtype=each.spec.dtype)
        for each, values in zip(plan.inputs, arrays, strict=True)
    }


def _values(
    tensor: pb.ModelInferRequest.InferInputTensor,
    raw: bytes | None,
    wanted: Input,
    plan: Plan,
    predictor: Predictor,
) -> NDArray[Any]:
    spec, shape = wanted.spec, tuple(tensor.shape)
    if tensor.parameters:
        _check_supported(tensor.parameters, f"{_field(spec.name)}.parameters")
    datatype = wanted.accepted.get(tensor.datatype)
    if datatype is None:
        raise InvalidInputError.of_field(
            f"{_field(spec.name)}.datatype",
            f"is {tensor.datatype[:20] or 'empty'}; must be {' or '.join(wanted.accepted)}",
            reason="DATATYPE_MISMATCH",
        )
    if len(shape) != len(spec.shape) or shape[0] < 1:
        axes = ", ".join(str(axis or "rows") for axis in spec.shape)
        raise InvalidInputError.of_field(
            f"{_field(spec.name)}.shape", f"is {list(shape)}; must be [{axes}], rows >= 1", reason="SHAPE_MISMATCH"
        )
    if shape[1:] != spec.shape[1:]:
        if len(plan.inputs) == 1:
            raise wrong_count(f"{_field(spec.name)}.shape", shape[1], plan.loaded)
        raise InvalidInputError.of_field(
            f"{_field(spec.name)}.shape",
            f"has {shape[1]} columns; must have {spec.columns}",
            reason="FEATURE_COUNT_MISMATCH",
        )
    predictor.check_size(shape[0], _field(spec.name))
    count = shape[0] * spec.columns
    values = _of_contents(tensor, datatype, count) if raw is None else _of_raw(tensor, raw, datatype, count)
    if datatype.name == "INT64" and ((values > _MOST_INT64) | (values < -_MOST_INT64)).any():
        raise InvalidInputError.of_field(_field(spec.name), f"has a value beyond ±{_MOST_INT64}", reason="OUT_OF_RANGE")
    return values.reshape(shape)


def _of_raw(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes, datatype: Datatype, count: int) -> NDArray[Any]:
    assert datatype.layout is not None  # no input is of BYTES
    expected = count * datatype.layout.itemsize
    if len(raw) != expected or tensor.HasField("contents"):
        why = "has contents beside raw_input_contents" if len(raw) == expected else f"has {len(raw)} bytes"
        raise InvalidInputError.of_field(
            _field(tensor.name),
            f"{why}; {list(tensor.shape)} of {datatype.name} are {expected} bytes",
            reason="CONTENTS_MISMATCH",
        )
    return np.frombuffer(raw, datatype.layout)


def _of_contents(tensor: pb.ModelInferRequest.InferInputTensor, datatype: Datatype, count: int) -> NDArray[Any]:
    values = getattr(tensor.contents, datatype.contents)
    if len(values) != count:
        raise InvalidInputError.of_field(
            _field(tensor.name),
            f"has {len(values)} values in contents.{datatype.contents}; {list(tensor.shape)} of {datatype.name} are "
            f"{count}",
            reason="CONTENTS_MISMATCH",
        )
    return np.fromiter(values, datatype.layout, count)


def _check_supported(parameters: Mapping[str, pb.InferParameter], field: str) -> None:
    for name, why in _UNSUPPORTED.items():
        if name in parameters:
            raise InvalidInputError.of_field(f"{field}.{name}", why, reason="UNSUPPORTED_PARAMETER")


def _whole(parameter: pb.InferParameter) -> int | None:
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return parameter.int64_param
    return parameter.uint64_param if kind == "uint64_param" else None


def _field(name: str) -> str:
    return f'inputs["{name[:80]}"]'
