"""How a row is laid over the inputs of a graph, and which of its numbers is the prediction. Real graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, helper
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

from modelstore.onnx_model import OnnxModel
from modelstore.signature import COLUMN_MISMATCH, OUTPUT_MISMATCH
from runtime.errors import InvalidInputError

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
RNG = np.random.default_rng(3)


def tensor(name: str, kind: int, *shape: int | str | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def graph(nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> bytes:
    made = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def several_inputs() -> bytes:
    """y = mean of a [N, 2] + b [N] + c [N, 1], which are float32, float64 and int64."""
    return graph(
        [
            helper.make_node("Constant", [], ["axis"], value_ints=[1]),
            helper.make_node("ReduceMean", ["a"], ["mean_a"], axes=[1], keepdims=0),
            helper.make_node("Cast", ["mean_a"], ["wide_a"], to=DOUBLE),
            helper.make_node("Cast", ["c"], ["wide_c"], to=DOUBLE),
            helper.make_node("Squeeze", ["wide_c", "axis"], ["flat_c"]),
            helper.make_node("Add", ["wide_a", "b"], ["ab"]),
            helper.make_node("Add", ["ab", "flat_c"], ["y"]),
        ],
        [tensor("a", FLOAT, "n", 2), tensor("b", DOUBLE, "n"), tensor("c", INT64, "n", 1)],
        [tensor("y", DOUBLE, "n")],
    )


def test_a_row_is_laid_over_several_inputs_from_left_to_right() -> None:
    model = OnnxModel.load(several_inputs())
    assert (model.columns, model.dtype) == (4, np.float64)
    rows = np.array([[1.0, 3.0, 0.25, 7.0], [0.0, 1.0, -1.0, 2.0]])
    assert model.predict(rows).tolist() == [9.25, 1.5]


def test_values_that_an_input_cannot_hold_are_found() -> None:
    model = OnnxModel.load(several_inputs())
    rows = np.array([[1.0, 1e39, 1e300, 7.0], [-1e39, 1.0, 0.0, 2.5], [0.0, 0.0, 0.0, 2.0**60]])
    unfit = model.unfit(rows)
    assert unfit is not None
    assert np.argwhere(unfit).tolist() == [[0, 1], [1, 0], [1, 3], [2, 3]]
    assert model.unfit(np.array([[1.0, 3e38, 1e300, -7.0]])) is None


def test_float64_holds_every_finite_value_and_float32_its_range() -> None:
    wide = graph(
        [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", DOUBLE, None, 1)], [tensor("y", DOUBLE, None, 1)]
    )
    narrow = graph(
        [helper.make_node("Identity", ["x"], ["y"])], [tensor("x", FLOAT, None, 1)], [tensor("y", FLOAT, None, 1)]
    )
    big = np.array([[1.0], [1e39]])
    assert OnnxModel.load(wide).unfit(big) is None
    assert OnnxModel.load(wide).predict(big).tolist() == [1.0, 1e39]
    unfit = OnnxModel.load(narrow).unfit(big)
    assert unfit is not None
    assert unfit.tolist() == [[False], [True]]


def test_the_prediction_of_a_classifier_is_the_probability_of_its_second_class() -> None:
    x = RNG.normal(size=(200, 3)).astype(np.float32)
    fitted = LogisticRegression().fit(x, x[:, 0] > 0)
    onnx = to_onnx(fitted, x[:1], options={"zipmap": False}).SerializeToString()
    found = OnnxModel.load(onnx)
    assert np.allclose(found.predict(x), fitted.predict_proba(x)[:, 1], atol=1e-6)
    assert {name: list(array.shape) for name, array in found.outputs({"X": x}).items()} == {
        "label": [200],
        "probabilities": [200, 2],
    }


IDENTITY = helper.make_node("Identity", ["x"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "reason"),
    [
        ([IDENTITY], [tensor("x", FLOAT, 1, 3)], [tensor("y", FLOAT, 1, 3)], COLUMN_MISMATCH),
        ([IDENTITY], [tensor("x", FLOAT, None, None)], [tensor("y", FLOAT, None, None)], COLUMN_MISMATCH),
        ([IDENTITY], [tensor("x", FLOAT, None, 3, 3)], [tensor("y", FLOAT, None, 3, 3)], COLUMN_MISMATCH),
        (
            [IDENTITY],
            [tensor("x", TensorProto.STRING, None, 1)],
            [tensor("y", TensorProto.STRING, None, 1)],
            COLUMN_MISMATCH,
        ),
        ([IDENTITY], [tensor("x", FLOAT, None, 3)], [tensor("y", FLOAT, None, 3)], OUTPUT_MISMATCH),
        # Two numbers a row and no label: logits, or two targets.
        ([IDENTITY], [tensor("x", FLOAT, None, 2)], [tensor("y", FLOAT, None, 2)], OUTPUT_MISMATCH),
        (
            [IDENTITY, helper.make_node("Neg", ["x"], ["z"])],
            [tensor("x", FLOAT, None, 1)],
            [tensor("y", FLOAT, None, 1), tensor("z", FLOAT, None, 1)],
            OUTPUT_MISMATCH,
        ),
    ],
    ids=["fixed rows", "free columns", "three axes", "text", "a row of numbers", "two numbers", "two predictions"],
)
def test_a_graph_that_leaves_a_choice_is_refused(
    nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], reason: str
) -> None:
    with pytest.raises(InvalidInputError) as raised:
        OnnxModel.load(graph(nodes, inputs, outputs))
    assert raised.value.reason == reason
