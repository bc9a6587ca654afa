"""PyTorch answers the same as ONNX: modules and programs, one input or several, one output or several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inference_svc.conversion.errors import FixedBatchError, ParityError, SampleRowsError, UnsupportedModelError
from inference_svc.conversion.files import load_model
from inference_svc.conversion.from_torch import from_torch
from inference_svc.conversion.graph import Graph
from runtime.errors import FailedPreconditionError
from tests.frameworks.models import UNSEEN, X, converted, run_command, run_page, served

VERSION = f"torch {torch.__version__.partition('+')[0]}"


def network(columns: int = 6) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(columns, 64),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.BatchNorm1d(64),
        nn.Linear(64, 32),
        nn.GELU(),
        nn.Linear(32, 1),
    )


def answer(module: nn.Module, *rows: np.ndarray[Any, Any]) -> Any:
    module.eval()
    with torch.no_grad():
        return module(*map(torch.tensor, rows))


class Recurrent(nn.Module):
    """Rows as sequences of one step; two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.memory, self.norm, self.head = nn.LSTM(6, 8, batch_first=True), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.head(self.norm(self.memory(rows[:, None, :])[0][:, -1]))
        return {"volatility": outputs[:, 1].exp(), "mean": outputs[:, 0]}


class Gated(nn.Module):
    """Two inputs, of four columns and of two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.level, self.gate = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (self.level(one) * torch.sigmoid(self.gate(other))).sum(1)


class Fixed(nn.Module):
    """Only for as many rows as its example had."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(64, -1)[:, :1]


class Standardising(nn.Module):
    """A row's answer depends on the rows beside it."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows - rows.mean(0)).sum(1)


class Branching(nn.Module):
    """What it computes depends on the values."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.sum(1) if rows.sum() > 0 else -rows.sum(1)


def test_a_module_answers_the_same_and_stays_as_it_was() -> None:
    module = network()
    module.train()
    module[3].eval()
    conversion = converted(module)
    assert [part.training for part in module] == [True, True, True, False, True, True, True]
    assert conversion.verification.outputs[0].max_abs_error < 1e-5
    assert conversion.manifest.framework == VERSION
    np.testing.assert_allclose(served(conversion), answer(module, UNSEEN).numpy()[:, 0], rtol=1e-4, atol=1e-5)


def test_several_outputs_keep_their_names_and_order() -> None:
    module = Recurrent()
    conversion = converted(module)
    assert [each.name for each in conversion.verification.outputs] == ["volatility", "mean"]
    expected = answer(module, UNSEEN)
    for name, found in zip(("volatility", "mean"), Graph(conversion.onnx)(UNSEEN), strict=True):
        np.testing.assert_allclose(found, expected[name].numpy(), rtol=1e-4, atol=1e-5)
    named = converted(from_torch(module, X.astype(np.float64), output_names=("risk", "edge")))
    assert [each.name for each in named.verification.outputs] == ["risk", "edge"]


def test_a_row_is_laid_over_several_inputs_from_left_to_right() -> None:
    module = Gated()
    conversion = converted(from_torch(module, X.astype(np.float64), input_columns=(4, 2)))
    expected = answer(module, UNSEEN[:, :4], UNSEEN[:, 4:]).numpy()
    np.testing.assert_allclose(Graph(conversion.onnx)(UNSEEN)[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SampleRowsError, match=r"6 columns; the model's inputs have 4\+1"):
        from_torch(module, X.astype(np.float64), input_columns=(4, 1))


def test_weights_of_float64_are_kept_and_half_ones_refused() -> None:
    torch.manual_seed(7)
    exact = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    assert converted(exact).verification.outputs[0].max_abs_error < 1e-12
    with pytest.raises(UnsupportedModelError, match="float16"):
        converted(network().half())


def test_a_program_answers_the_same_also_from_its_file(tmp_path: Path) -> None:
    module = network().eval()
    free = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (torch.tensor(X[:8]),), dynamic_shapes=free)
    conversion = converted(program)
    np.testing.assert_allclose(served(conversion), answer(module, UNSEEN).numpy()[:, 0], rtol=1e-4, atol=1e-5)
    torch.export.save(program, tmp_path / "model.pt2")
    assert converted(load_model(tmp_path / "model.pt2", trust_pickle=True)).onnx == conversion.onnx
    with pytest.raises(FailedPreconditionError, match="--trust-pickle"):
        load_model(tmp_path / "model.pt2")


def test_a_fixed_batch_axis_is_refused() -> None:
    with pytest.raises(FixedBatchError, match="exactly 8 rows"):
        converted(torch.export.export(network().eval(), (torch.tensor(X[:8]),)))
    with pytest.raises(FixedBatchError, match="on 1 rows"):
        converted(Fixed(), X[:64])


def test_a_row_that_depends_on_its_batch_is_a_mismatch() -> None:
    with pytest.raises(ParityError, match="in a batch of 400, the other one in a batch of 1"):
        converted(Standardising())


def test_what_cannot_be_exported_is_refused_in_one_line() -> None:
    with pytest.raises(UnsupportedModelError, match="data-dependent") as caught:
        converted(Branching())
    assert "\n" not in str(caught.value)
    scripted = torch.jit.ScriptModule()
    with pytest.raises(UnsupportedModelError, match="TorchScript is deprecated"):
        converted(scripted)


def test_int8_is_smaller_and_close() -> None:
    module = nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    for mode in ("dynamic", "static"):
        report = converted(module, int8=mode).int8
        assert report is not None
        assert report.int8_bytes < report.float_bytes / 3
        assert report.outputs[0].rank_correlation > 0.99


_IN_ANOTHER_PROCESS = """
import tests.frameworks.test_torch as here
print(here.converted(here.network()).onnx_sha256, here.converted(here.Recurrent()).onnx_sha256)
"""


def test_the_same_model_gives_the_same_bytes_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", _IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_the_page_and_the_command(tmp_path: Path) -> None:
    run_page("PyTorch", tmp_path)
    assert run_command("model.pt2", tmp_path, "--trust-pickle")["framework"] == VERSION
