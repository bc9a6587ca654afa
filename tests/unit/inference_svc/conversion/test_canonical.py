"""Every graph comes out in one form: pinned, named, without what differs from run to run, and with the same meaning."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from inference_svc.conversion import canonical, convert
from inference_svc.conversion.errors import UnsupportedModelError
from inference_svc.conversion.graph import Graph
from tests.unit.inference_svc.conversion.graphs import exported, linear, manifest, rows

WEIGHTS = np.array([0.1, -0.2, 0.3])


def converted(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.load_from_string(convert(exported(graph, WEIGHTS), rows(), manifest=manifest(3)).onnx)


def test_opsets_format_names_and_shapes_are_pinned() -> None:
    model = converted(linear(WEIGHTS))
    assert {each.domain: each.version for each in model.opset_import} == {"": 18}  # an unused domain is not named
    assert model.ir_version == 8
    assert [each.name for each in (*model.graph.input, *model.graph.output)] == ["rows", "prediction"]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [["rows", 3], ["rows", 1]]
    assert '"ai.onnx":18' in model.metadata_props[0].value


def test_nothing_of_the_exporter_is_left() -> None:
    model = converted(linear(WEIGHTS))
    data = model.SerializeToString()
    for noise in (b"someone", b"noise", b"0815", b"4711", b"train.py", b"unused"):
        assert noise not in data
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Identity"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=5, max_size=5, unique=True))
def test_what_an_exporter_calls_its_tensors_changes_no_byte(names: list[str]) -> None:
    renamed = linear(WEIGHTS)
    text = dict(zip(("in", "w", "m", "unused", "out"), names, strict=True))
    for node in renamed.graph.node:
        node.input[:] = [text[name] for name in node.input]
        node.output[:] = [text[name] for name in node.output]
    for each in (*renamed.graph.input, *renamed.graph.output, *renamed.graph.initializer):
        each.name = text[each.name]
    assert converted(renamed).SerializeToString() == converted(linear(WEIGHTS)).SerializeToString()


def test_names_of_the_interface_that_the_graph_uses_inside_do_not_clash() -> None:
    graph = linear(WEIGHTS)
    for node in graph.graph.node:  # inner tensors called like what the interface will be called
        node.input[:] = ["prediction" if name == "m" else name for name in node.input]
        node.output[:] = ["prediction" if name == "m" else name for name in node.output]
    model = converted(graph)
    expected = rows().astype(np.float32) @ WEIGHTS
    np.testing.assert_allclose(Graph(model.SerializeToString())(rows())[0][:, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_subgraph_keeps_its_meaning() -> None:
    value = TensorProto.FLOAT
    then = helper.make_graph(
        [helper.make_node("Mul", ["m", "w0"], ["r"])], "then", [], [helper.make_tensor_value_info("r", value, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["m"], ["r"])], "else", [], [helper.make_tensor_value_info("r", value, None)]
    )
    graph = linear(WEIGHTS)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float32), "w0"))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    graph.graph.node[2].CopyFrom(helper.make_node("If", ["yes"], ["out"], then_branch=then, else_branch=other))
    model = onnx.load_from_string(
        convert(
            exported(graph, 2 * WEIGHTS, reference=lambda x: (x @ (2 * WEIGHTS),)), rows(), manifest=manifest(3)
        ).onnx
    )
    assert model.graph.node[-1].op_type == "If"


def test_operators_of_another_domain_and_newer_opsets_are_refused() -> None:
    foreign = linear(WEIGHTS)
    foreign.graph.node[2].domain = "com.example"
    foreign.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedModelError, match=r"com\.example"):
        converted(foreign)
    newer = linear(WEIGHTS)
    for each in newer.opset_import:
        each.version = 21
    with pytest.raises(UnsupportedModelError, match="18 is pinned"):
        converted(newer)


def test_an_output_that_is_an_input_is_refused() -> None:
    graph = linear(WEIGHTS)
    del graph.graph.node[:]
    graph.graph.output[0].name = "in"
    with pytest.raises(UnsupportedModelError, match="unchanged"):
        canonical.canonical(exported(graph, WEIGHTS))
