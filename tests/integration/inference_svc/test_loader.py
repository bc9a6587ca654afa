"""A model is ready when it is warm, fits into memory, and is what its digest says; else it is told why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.neural_network import MLPRegressor

from inference_svc import loader as loading
from inference_svc.loader import Loader, warm_up_rows
from inference_svc.memory import MB
from inference_svc.settings import InferenceSettings
from modelstore.artifacts import ArtifactStore
from modelstore.onnx_model import OnnxModel
from runtime.errors import FailedPreconditionError, QuantmeshError, ResourceExhaustedError
from tests.integration.inference_svc.models import FEATURES, boosted, register, ridge, rows


def loader(home: Path, **others: object) -> Loader:
    return Loader(ArtifactStore(home / "models"), InferenceSettings.model_validate({"home": home} | others))


async def test_a_loaded_model_is_warm_and_its_cost_is_known(tmp_path: Path) -> None:
    version = register(tmp_path, boosted()[1])
    model = await loader(tmp_path, batch_size=32).load(version)
    assert 0 < model.lane.cost.of(1) <= model.lane.cost.of(32) < 0.1
    assert (await loader(tmp_path, model_warmup=False).load(version)).lane.cost.of(32) == 0.0


def test_warm_up_sees_every_size_up_to_the_most_rows_of_a_call() -> None:
    assert [list(warm_up_rows(most)) for most in (1, 2, 32, 100)] == [
        [1],
        [1, 2],
        [1, 2, 4, 8, 16, 32],
        [1, 2, 4, 8, 16, 32, 64, 100],
    ]


async def test_a_model_that_is_not_warm_in_time_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="INFER_WARMUP_TIMEOUT_S") as raised:
        await loader(tmp_path, warmup_timeout_s=1e-6).load(register(tmp_path, boosted()[1]))
    assert raised.value.reason == "WARM_UP_TOO_SLOW"


async def test_a_model_that_does_not_fit_into_memory_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(tmp_path, ridge(1.0))
    monkeypatch.setattr(OnnxModel, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ResourceExhaustedError, match="not enough memory") as raised:
        await loader(tmp_path, memory_limit_mb=1).load(version)
    assert raised.value.reason == "NOT_ENOUGH_MEMORY"


def wide() -> bytes:
    """A network of several megabytes."""
    x = rows(64)
    fitted = MLPRegressor(hidden_layer_sizes=(1200, 1200), max_iter=1, random_state=0).fit(x, x[:, 0])
    return bytes(to_onnx(fitted, x[:1].astype(np.float32)).SerializeToString())


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
async def test_an_optimised_graph_is_kept_by_digest_and_made_again_when_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = wide()
    assert len(onnx) > loading._WORTH_KEEPING
    version = register(tmp_path, onnx)
    first = await loader(tmp_path).load(version)
    (kept,) = (tmp_path / "cache" / "optimized").glob(f"{version}-*.onnx")
    assert not list(kept.parent.glob("*.draft"))
    opened: list[bool] = []
    load = OnnxModel.load.__func__  # type: ignore[attr-defined]

    def spy(cls: type[OnnxModel], onnx: bytes, *args: object, optimize: bool = True, **others: object) -> OnnxModel:
        opened.append(optimize)
        return load(cls, onnx, *args, optimize=optimize, **others)  # type: ignore[no-any-return]

    monkeypatch.setattr(OnnxModel, "load", classmethod(spy))
    again = await loader(tmp_path).load(version)
    kept.write_bytes(kept.read_bytes()[:-100] + b"x" * 100)
    mended = await loader(tmp_path).load(version)
    assert (await loader(tmp_path).load(version)) is not None
    assert opened == [False, True, False]
    x = rows(8)
    assert first.model.predict(x).tobytes() == again.model.predict(x).tobytes() == mended.model.predict(x).tobytes()


async def test_an_artifact_that_is_damaged_is_not_loaded(tmp_path: Path) -> None:
    version = register(tmp_path, ridge(1.0))
    (model,) = (tmp_path / "models").rglob("model.onnx")
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(QuantmeshError) as raised:
        await loader(tmp_path).load(version)
    assert raised.value.reason == "ARTIFACT_CORRUPT"
    assert 64 * MB > model.stat().st_size > len(FEATURES)
