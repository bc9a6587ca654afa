"""One form for every graph: pinned opsets, named inputs and outputs, and nothing that differs from run to run.

Exporters number their tensors by counters of the process, name graphs at random and write source paths into them. All
of that goes, so that the same model gives the same bytes, and with the same manifest the same version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import onnx
from onnx import checker, inliner

from inference_svc.conversion.errors import FixedBatchError, UnsupportedModelError
from inference_svc.conversion.exported import Exported

OPSET = 18
"""Version of the standard operators. PyTorch's exporter writes it itself, tf2onnx knows none above, and ONNX
Runtime has run it since 1.14."""

ML_OPSET = 3
"""Version of `ai.onnx.ml`, the tree ensembles."""

IR_VERSION = 8
"""File format of ONNX 1.13, the release of both."""

PROPERTY = "quantmesh.conversion"
"""Key of the one entry in a model's metadata."""

_VERSIONS = {"": OPSET, "ai.onnx": OPSET, "ai.onnx.ml": ML_OPSET}
_ROWS = "rows"


def canonical(exported: Exported) -> onnx.ModelProto:
    """Rewrite a graph in the one form.

    Raises UnsupportedModelError for operators that plain ONNX Runtime lacks, FixedBatchError for an input that is
    declared with a fixed number of rows.
    """
    model = onnx.ModelProto()
    model.CopyFrom(inliner.inline_local_functions(exported.graph) if exported.graph.functions else exported.graph)
    graph = model.graph
    _drop_initialisers_from_inputs(graph)
    _require_free_rows(graph)
    _drop_unused(graph)
    _rename(graph, exported.input_names, exported.output_names)
    _strip(model)
    _pin(model)
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise UnsupportedModelError(f"its graph is no valid ONNX of opset {OPSET}: {error}") from error
    return model


def declare_outputs(model: onnx.ModelProto, columns: Sequence[int | None]) -> None:
    """Declare the outputs' shapes as they were seen: [rows], or [rows, columns]. Exporters are often wrong there."""
    for output, count in zip(model.graph.output, columns, strict=True):
        shape = output.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add().dim_param = _ROWS
        if count is not None:
            shape.dim.add().dim_value = count


def serialised(model: onnx.ModelProto, metadata: str) -> bytes:
    """The bytes of a canonical model, with its one entry of metadata; equal models give equal bytes."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = PROPERTY, metadata
    return bytes(model.SerializeToString(deterministic=True))


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """The operator sets that a model uses, by domain."""
    return {each.domain or "ai.onnx": each.version for each in model.opset_import}


def _drop_initialisers_from_inputs(graph: onnx.GraphProto) -> None:
    constants = {each.name for each in graph.initializer}
    _replace(graph.input, [each for each in graph.input if each.name not in constants])


def _require_free_rows(graph: onnx.GraphProto) -> None:
    for each in graph.input:
        dims = each.type.tensor_type.shape.dim
        if dims and dims[0].HasField("dim_value"):
            raise FixedBatchError(f"input {each.name} is declared for exactly {dims[0].dim_value} rows")
        if dims:
            dims[0].dim_param = _ROWS


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {each.name for each in graph.output}
    live = []
    for node in reversed(graph.node):
        if any(name in used for name in node.output):
            used.update(_read(node))
            live.append(node)
    _replace(graph.node, reversed(live))
    _replace(graph.initializer, [each for each in graph.initializer if each.name in used])


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Every name that a node reads, in its subgraphs too (there also their own names, which does no harm)."""
    yield from node.input
    for subgraph in _subgraphs(node):
        yield from (each.name for each in subgraph.output)
        for inner in subgraph.node:
            yield from _read(inner)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _rename(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Number every tensor in the order of its first appearance. One name stays one name, so no meaning changes."""
    if len(graph.input) != len(inputs) or len(graph.output) != len(outputs):
        raise UnsupportedModelError(
            f"its graph has {len(graph.input)} inputs and {len(graph.output)} outputs; expected were "
            f"{', '.join(inputs)} and {', '.join(outputs)}"
        )
    given, taken_by = [each.name for each in graph.output], {each.name for each in graph.input}
    if len(set(given)) != len(given) or taken_by & set(given):
        raise UnsupportedModelError("one of its outputs is an input, or another output, unchanged")
    names: dict[str, str] = {"": ""}  # an optional input that is left out
    names |= {each.name: name for each, name in zip(graph.input, inputs, strict=True)}
    names |= {each.name: name for each, name in zip(graph.output, outputs, strict=True)}
    taken = set(names.values())

    def new(name: str) -> str:
        if name not in names:
            number = f"t{len(names)}"
            while number in taken:
                number += "_"
            names[name] = number
        return names[name]

    _rename_within(graph, new)
    place = {name: number for number, name in enumerate(names.values())}
    _replace(graph.initializer, sorted(graph.initializer, key=lambda each: place[each.name]))


def _rename_within(graph: onnx.GraphProto, new: Callable[[str], str]) -> None:
    for each in graph.input:
        each.name = new(each.name)
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for subgraph in _subgraphs(node):
            _rename_within(subgraph, new)
    for constant in graph.initializer:
        constant.name = new(constant.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)
    for output in graph.output:
        output.name = new(output.name)


def _strip(model: onnx.ModelProto) -> None:
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        model.ClearField(field)
    del model.metadata_props[:]
    del model.training_info[:]
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.name = "model"
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    named: list[Any] = [*graph.input, *graph.output, *graph.initializer, *graph.node]
    for each in named:
        each.doc_string = ""
        del each.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
        for subgraph in _subgraphs(node):
            _strip_graph(subgraph)


def _pin(model: onnx.ModelProto) -> None:
    used = sorted(set(_domains(model.graph.node)))
    foreign = [domain for domain in used if domain not in _VERSIONS]
    if foreign:
        raise UnsupportedModelError(f"its graph needs operators of {', '.join(foreign)}, which ONNX Runtime has not")
    newest = {each.domain: each.version for each in model.opset_import}
    for domain in used:
        if newest.get(domain, 0) > _VERSIONS[domain]:
            raise UnsupportedModelError(
                f"its exporter wrote opset {newest[domain]} of {domain or 'ai.onnx'}, and {_VERSIONS[domain]} is pinned"
            )
    del model.opset_import[:]
    # Lower numbers than the pinned ones are the exporters' way of saying which operators they used, all of which are
    # the same in the pinned version: the checker holds it against the nodes, and the verification against the numbers.
    model.opset_import.extend(onnx.helper.make_opsetid(domain, _VERSIONS[domain]) for domain in used)
    model.ir_version = IR_VERSION


def _domains(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield "" if node.domain == "ai.onnx" else node.domain
        for subgraph in _subgraphs(node):
            yield from _domains(subgraph.node)


def _replace(field: Any, kept: Iterable[Any]) -> None:
    """Replace a repeated field by some of its own messages, which are copied before they are cleared away."""
    copies = [type(each).FromString(each.SerializeToString()) for each in kept]
    del field[:]
    field.extend(copies)
