"""Keras 3 (on TensorFlow) and TensorFlow SavedModels to ONNX, by tf2onnx from a traced function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inference_svc.conversion.canonical import OPSET
from inference_svc.conversion.errors import FixedBatchError, SampleRowsError, UnsupportedModelError
from inference_svc.conversion.exported import PREDICTION, Exported, Rows
from inference_svc.conversion.frameworks import quietly, require

_SIGNATURE = "serving_default"


def from_keras(model: Any, columns: int) -> Exported:
    """Export a built Keras 3 model on TensorFlow, whose inputs are [N, F] and whose outputs are [N] or [N, C].

    A single output is `prediction`; several have the names of their layers. A row is laid over several inputs from
    left to right. Raises UnsupportedModelError, MissingFrameworkError.
    """
    keras, tensorflow = require("keras"), require("tensorflow")
    if keras.config.backend() != "tensorflow":
        raise UnsupportedModelError(
            f"Keras runs on {keras.config.backend()} here; set KERAS_BACKEND=tensorflow before it is imported"
        )
    if not isinstance(model, keras.Model) or not model.built or not model.inputs:
        raise UnsupportedModelError(f"Keras' {type(model).__name__} is no built keras.Model with inputs of known shape")
    specs = [_spec(tensorflow, each, number) for number, each in enumerate(model.inputs)]

    def call(*rows: Any) -> Any:
        return tensorflow.nest.flatten(model(rows[0] if len(rows) == 1 else list(rows), training=False))

    # A Sequential has no names of outputs, and only one.
    names = tuple(str(each) for each in getattr(model, "output_names", None) or ("output",))
    return _exported(tensorflow, call, specs, columns, names, f"keras {keras.__version__}")


def from_saved_model(model: Any, columns: int) -> Exported:
    """Export what tf.saved_model.load gave: its signature `serving_default`, inputs and outputs as in `from_keras`.

    Inputs and outputs are taken in the order of their names. Raises UnsupportedModelError, MissingFrameworkError.
    """
    tensorflow = require("tensorflow")
    signature = getattr(model, "signatures", {}).get(_SIGNATURE)
    if signature is None:
        raise UnsupportedModelError(
            f"TensorFlow's {type(model).__name__} has no signature {_SIGNATURE!r}: load it with tf.saved_model.load"
        )
    given = signature.structured_input_signature[1]
    names = sorted(given)
    specs = [_spec(tensorflow, given[name], number) for number, name in enumerate(names)]
    outputs = tuple(sorted(signature.structured_outputs))

    def call(*rows: Any) -> Any:
        answer = signature(**dict(zip(names, rows, strict=True)))
        return [answer[name] for name in outputs]

    return _exported(tensorflow, call, specs, columns, outputs, f"tensorflow {tensorflow.__version__}")


def _exported(
    tensorflow: Any,
    call: Callable[..., Any],
    specs: Sequence[Any],
    columns: int,
    outputs: tuple[str, ...],
    framework: str,
) -> Exported:
    counts = [int(each.shape[1]) for each in specs]
    if sum(counts) != columns:
        raise SampleRowsError(f"have {columns} columns; the model's inputs have {'+'.join(map(str, counts))}")
    tf2onnx = require("tf2onnx")
    traced = tensorflow.function(call, input_signature=list(specs))
    try:
        with quietly():
            graph: onnx.ModelProto
            graph, _ = tf2onnx.convert.from_function(
                traced, input_signature=list(specs), opset=OPSET, custom_op_handlers={"Erfc": (_erfc, [])}
            )
    except Exception as error:  # tf2onnx raises whatever it stumbles over
        first = str(error).strip().partition("\n")[0][:300]
        raise UnsupportedModelError(f"tf2onnx does not convert this model ({type(error).__name__}: {first})") from error

    def ask(rows: Rows) -> list[NDArray[Any]]:
        ends = np.cumsum(counts)[:-1]
        parts = [
            part.astype(spec.dtype.as_numpy_dtype)
            for part, spec in zip(np.split(rows, ends, axis=1), specs, strict=True)
        ]
        with quietly():
            answer = traced(*map(tensorflow.constant, parts))
        return [np.asarray(each) for each in answer]

    return Exported(
        graph=graph,
        reference=ask,
        framework=framework,
        input_names=("rows",) if len(specs) == 1 else tuple(each.name for each in specs),
        output_names=outputs if len(outputs) > 1 else (PREDICTION,),
    )


def _erfc(context: Any, node: Any, name: str, _: Any) -> None:
    """The one operator of Keras' own layers (gelu) that tf2onnx lacks: erfc(x) = 1 - erf(x)."""
    (read,), (written,) = node.input, node.output
    shape, dtype = context.get_shape(written), context.get_dtype(written)
    context.remove_node(node.name)
    one = context.make_const(f"{name}_one", np.array(1, onnx.helper.tensor_dtype_to_np_dtype(dtype)))
    erf = context.make_node("Erf", [read])
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=[written], shapes=[shape], dtypes=[dtype])


def _spec(tensorflow: Any, given: Any, number: int) -> Any:
    """An input with its batch axis free."""
    shape = list(given.shape)
    if len(shape) != 2 or shape[1] is None:
        raise UnsupportedModelError(f"an input has shape {shape}; rows of features are [N, F], F fixed: reshape inside")
    if shape[0] is not None:
        raise FixedBatchError(f"an input is declared for exactly {shape[0]} rows")
    return tensorflow.TensorSpec(shape, given.dtype, name=f"rows_{number}")
