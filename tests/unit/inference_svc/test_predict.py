"""The use case: checks of what comes in and of what goes out, and what becomes of a call that is given up."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from inference_svc.admission import Admission
from inference_svc.batcher import Batcher
from inference_svc.predict import Predictor, check_call
from inference_svc.registry import LoadedModel, Registry, Target
from inference_svc.rows import of_batch, of_one_row
from runtime.errors import FailedPreconditionError, InvalidInputError, ResourceExhaustedError
from tests.unit.inference_svc.loaded import Table, loaded, serving


def target(model: LoadedModel | None = None) -> Target:
    return Target("momentum", "champion", 3, model or loaded("a" * 64, 10.0))


def predictor(max_rows: int = 100) -> Predictor:
    return Predictor(Registry(), Batcher(Admission(1.0, 1000), most_rows=4), max_rows)


def fault(error: InvalidInputError) -> tuple[str, list[str]]:
    return error.reason, [violation.field for violation in error.violations]


async def test_rows_are_scored_with_the_version_that_was_resolved() -> None:
    registry = Registry()
    registry.swap(serving("momentum", champion=loaded("a" * 64, 1.0)))
    service = Predictor(registry, Batcher(Admission(1.0, 1000), most_rows=4), 100)
    pending = service.begin(service.resolve("momentum"), np.arange(18.0).reshape(9, 2), of_batch)
    registry.swap(serving("momentum", 2, champion=loaded("b" * 64, 1000.0)))
    work = await pending.result()
    assert work.values.tolist() == [4.0 * n + 2 for n in range(9)]
    assert work.shapes == [(4, 4), (4, 4), (1, 1)]


async def test_values_that_are_not_finite_are_named() -> None:
    with pytest.raises(InvalidInputError) as raised:
        predictor().begin(target(), np.array([[math.nan, -math.inf]]), of_one_row)
    assert fault(raised.value) == ("NON_FINITE_FEATURE", ["features[0]", "features[1]"])
    with pytest.raises(InvalidInputError) as raised:
        predictor().begin(target(), np.array([[1.0, 2.0], [1.0, math.inf]]), of_batch)
    assert fault(raised.value) == ("NON_FINITE_FEATURE", ["batch[1].features[1]"])


async def test_no_prediction_that_is_not_finite_leaves() -> None:
    pending = predictor().begin(target(), np.array([[0.0, 0.0], [1e308, 1e308]]), of_batch)
    with pytest.raises(FailedPreconditionError, match="row 1") as raised:
        await pending.result()
    assert raised.value.reason == "NON_FINITE_PREDICTION"


async def test_a_row_that_makes_the_model_fail_fails_alone() -> None:
    table = target(loaded("a" * 64, model=Table((1.0, 2.0))))
    service = predictor()
    good = service.begin(table, np.array([[0.0, 0.0], [1.0, 0.0]]), of_batch)
    bad = service.begin(table, np.array([[0.0, 0.0], [5.0, 0.0]]), of_batch)
    with pytest.raises(FailedPreconditionError, match="row 1") as raised:
        await bad.result()
    assert (raised.value.reason, raised.value.metadata["row"]) == ("MODEL_FAILED", "1")
    assert (await good.result()).values.tolist() == [1.0, 2.0]


async def test_a_cancelled_call_frees_its_place_at_once_and_is_not_run() -> None:
    batcher = Batcher(Admission(1.0, 1000), most_rows=4)
    service = Predictor(Registry(), batcher, 100)
    model = loaded("a" * 64)
    before = service.begin(target(model), np.zeros((40, 2)), of_batch)
    call = asyncio.create_task(service.begin(target(model), np.zeros((3, 2)), of_batch).result())
    await asyncio.sleep(0)
    assert batcher.waiting_rows % 4 == 3
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    assert batcher.waiting_rows  # the other's
    assert batcher.waiting_rows % 4 == 0
    assert (await before.result()).shapes == [(4, 4)] * 10
    assert not batcher.waiting_rows
    assert model.model.calls == 10  # type: ignore[attr-defined]


def test_too_many_rows_are_refused() -> None:
    predictor(3).check_size(3, "batch")
    with pytest.raises(ResourceExhaustedError) as raised:
        predictor(3).check_size(4, "batch")
    assert (raised.value.reason, raised.value.metadata) == ("BATCH_TOO_LARGE", {"rows": "4", "limit": "3"})


def test_what_a_call_carries_is_bounded() -> None:
    check_call("x" * 128, {str(n): "v" * 256 for n in range(32)})
    with pytest.raises(InvalidInputError) as raised:
        check_call("x" * 129, {**{str(n): "" for n in range(33)}, "k": "v" * 257})
    assert fault(raised.value) == ("INVALID_FIELD", ["request_id", "metadata", "metadata[k]"])
