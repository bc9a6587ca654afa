"""PyTorch to ONNX, by torch.onnx's exporter over torch.export, with the batch axis free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inference_svc.conversion.canonical import OPSET
from inference_svc.conversion.errors import FixedBatchError, SampleRowsError, UnsupportedModelError
from inference_svc.conversion.exported import PREDICTION, Exported, Reference, Rows
from inference_svc.conversion.frameworks import quietly, require

_EXAMPLE_ROWS = 64


def from_torch(
    model: Any,
    rows: NDArray[np.float64],
    *,
    input_columns: Sequence[int] = (),
    output_names: Sequence[str] = (),
) -> Exported:
    """Export a Module, or a program of torch.export, whose forward takes rows [N, F] and gives tensors [N] or [N, C].

    A module is exported as it is in evaluation (dropout off), and left in the mode in which it was. `input_columns` are
    the columns of each argument of forward, when it takes several; a row is laid over them from left to right.
    `output_names` are those of its outputs; the default is `prediction` for a single one, a dictionary's keys, or
    `output_0` and so on. Raises UnsupportedModelError, MissingFrameworkError.
    """
    torch = require("torch")
    require("onnxscript")
    is_program = isinstance(model, torch.export.ExportedProgram)
    if isinstance(model, torch.jit.ScriptModule) or not (is_program or isinstance(model, torch.nn.Module)):
        raise UnsupportedModelError(
            f"torch's {type(model).__name__} is no torch.nn.Module or torch.export program (TorchScript is deprecated: "
            "export the module that it was made from)"
        )
    module = model.module() if is_program else model
    counts = tuple(input_columns) or _program_columns(model, is_program) or (rows.shape[1],)
    if sum(counts) != rows.shape[1]:
        raise SampleRowsError(f"have {rows.shape[1]} columns; the model's inputs have {'+'.join(map(str, counts))}")
    dtype, device = _floating(torch, model if is_program else module)
    example = _tensors(torch, rows[:_EXAMPLE_ROWS], counts, dtype, device)
    free = ({0: torch.export.Dim.AUTO},) * len(counts)
    try:
        with quietly(), _evaluating(module if not is_program else None):
            program = torch.onnx.export(
                model,
                () if is_program else example,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=None if is_program else free,
                verbose=False,
            )
        graph: onnx.ModelProto = program.model_proto
    except Exception as error:  # the exporter raises whatever the module stumbles over
        raise UnsupportedModelError(
            f"torch does not export this {type(model).__name__}: {_last_line(error)}"
        ) from error
    reference = _reference(torch, module, counts, dtype, device, evaluate=not is_program)
    names = _output_names(torch, module, example, output_names, evaluate=not is_program)
    return Exported(
        graph=graph,
        reference=reference,
        framework=f"torch {torch.__version__.partition('+')[0]}",  # without the build, such as +cpu
        input_names=("rows",) if len(counts) == 1 else tuple(each.name for each in graph.graph.input),
        output_names=names,
    )


def _program_columns(program: Any, is_program: bool) -> tuple[int, ...]:
    """Columns of each input of a program of torch.export."""
    if not is_program:
        return ()
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    shapes = [tuple(by_name[name].meta["val"].shape) for name in program.graph_signature.user_inputs]
    if any(len(shape) != 2 for shape in shapes):
        raise UnsupportedModelError(f"the program's inputs have shapes {shapes}; rows of features are [N, F]")
    if any(isinstance(shape[0], int) for shape in shapes):  # else it is a symbol
        raise FixedBatchError(
            f"the program was exported for exactly {shapes[0][0]} rows (torch.export.export takes dynamic_shapes)"
        )
    return tuple(int(shape[1]) for shape in shapes)


def _floating(torch: Any, model: Any) -> tuple[Any, Any]:
    """Type and device of the weights: the type of its rows too. float32 on the CPU for a model without weights."""
    held = list(model.parameters()) + list(model.buffers())
    weights = [each for each in held if each.is_floating_point()]
    if not weights:
        return torch.float32, torch.device("cpu")
    if weights[0].dtype not in (torch.float32, torch.float64):
        raise UnsupportedModelError(
            f"its weights are {weights[0].dtype}; rows are float32 or float64: convert it with .float()"
        )
    return weights[0].dtype, weights[0].device


def _tensors(torch: Any, rows: Rows, counts: Sequence[int], dtype: Any, device: Any) -> tuple[Any, ...]:
    whole = torch.as_tensor(np.ascontiguousarray(rows)).to(device=device, dtype=dtype)
    return tuple(part.contiguous() for part in torch.split(whole, list(counts), dim=1))


def _reference(torch: Any, module: Any, counts: Sequence[int], dtype: Any, device: Any, evaluate: bool) -> Reference:
    def ask(rows: Rows) -> list[NDArray[Any]]:
        with quietly(), torch.no_grad(), _evaluating(module if evaluate else None):
            outputs = module(*_tensors(torch, rows, counts, dtype, device))
        return [each.detach().cpu().numpy() for _, each in _named(torch, outputs)]

    return ask


def _named(torch: Any, outputs: Any) -> list[tuple[str, Any]]:
    """Outputs of forward with the names they get: a tensor, a sequence of tensors, or a dictionary of them."""
    if isinstance(outputs, torch.Tensor):
        return [(PREDICTION, outputs)]
    if isinstance(outputs, Mapping):
        named = [(str(name), each) for name, each in outputs.items()]
    elif isinstance(outputs, Sequence):
        named = [(f"output_{number}", each) for number, each in enumerate(outputs)]
    else:
        named = []
    if not named or not all(isinstance(each, torch.Tensor) for _, each in named):
        raise UnsupportedModelError(
            "its forward gives something else than a tensor, or tensors in a list or dictionary"
        )
    return named if len(named) > 1 else [(PREDICTION, named[0][1])]


def _output_names(torch: Any, module: Any, example: Any, given: Sequence[str], evaluate: bool) -> tuple[str, ...]:
    with quietly(), torch.no_grad(), _evaluating(module if evaluate else None):
        names = tuple(name for name, _ in _named(torch, module(*example)))
    if given and len(given) != len(names):
        raise UnsupportedModelError(f"it has {len(names)} outputs, and {len(given)} names were given")
    return tuple(given) or names


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put a module and all its parts in evaluation, and back in the mode of each; None is left alone."""
    modes = [] if module is None else [(each, each.training) for each in module.modules()]
    try:
        if module is not None:
            module.eval()
        yield
    finally:
        for each, training in modes:
            each.training = training


def _last_line(error: BaseException) -> str:
    """The innermost cause in one line: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
