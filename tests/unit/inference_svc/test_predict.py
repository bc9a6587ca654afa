"""Checks of what comes in and of what goes out."""

from __future__ import annotations

import math

import pytest

from inference_svc.predict import INLINE_ROWS, Predictor, check_call, predict_one, score_rows
from inference_svc.registry import Registry, Target
from runtime.errors import FailedPreconditionError, InvalidInputError, ResourceExhaustedError
from tests.unit.inference_svc.loaded import Sum, Table, loaded, serving

TARGET = Target("momentum", "champion", 3, loaded("a" * 64, 10.0))


def fault(error: InvalidInputError) -> tuple[str, list[str]]:
    return error.reason, [violation.field for violation in error.violations]


def test_one_row_is_scored() -> None:
    assert predict_one(TARGET, [1.0, 2.0]) == 13.0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([], ("FEATURE_COUNT_MISMATCH", ["features"])),
        ([1.0, 2.0, 3.0], ("FEATURE_COUNT_MISMATCH", ["features"])),
        ([math.nan, -math.inf], ("NON_FINITE_FEATURE", ["features[0]", "features[1]"])),
    ],
)
def test_a_bad_row_is_refused_with_every_bad_field(row: list[float], expected: tuple[str, list[str]]) -> None:
    with pytest.raises(InvalidInputError) as raised:
        predict_one(TARGET, row)
    assert fault(raised.value) == expected


def test_a_bad_row_of_a_batch_is_named() -> None:
    with pytest.raises(InvalidInputError) as raised:
        score_rows(TARGET, [[1.0, 2.0], [1.0]])
    assert fault(raised.value) == ("FEATURE_COUNT_MISMATCH", ["batch[1].features"])
    with pytest.raises(InvalidInputError) as raised:
        score_rows(TARGET, [[1.0, 2.0], [1.0, math.inf]])
    assert fault(raised.value) == ("NON_FINITE_FEATURE", ["batch[1].features[1]"])


def test_no_prediction_that_is_not_finite_leaves() -> None:
    for call in (lambda: predict_one(TARGET, [1e308, 1e308]), lambda: score_rows(TARGET, [[0.0, 0.0], [1e308, 1e308]])):
        with pytest.raises(FailedPreconditionError) as raised:
            call()
        assert raised.value.reason == "NON_FINITE_PREDICTION"


def test_a_row_that_makes_the_model_fail_is_named() -> None:
    target = Target("momentum", "champion", 3, loaded("a" * 64, model=Table((1.0, math.nan))))
    calls = (
        (lambda: predict_one(target, [5.0, 0.0]), "MODEL_FAILED", "0"),
        (lambda: score_rows(target, [[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [1.0, 0.0]]), "MODEL_FAILED", "2"),
        (lambda: score_rows(target, [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), "NON_FINITE_PREDICTION", "1"),
    )
    for call, reason, row in calls:
        with pytest.raises(FailedPreconditionError, match=f"row {row}") as raised:
            call()
        assert (raised.value.reason, raised.value.metadata["row"]) == (reason, row)


@pytest.mark.parametrize("count", [1, INLINE_ROWS, INLINE_ROWS + 1])
async def test_a_batch_is_one_call_of_the_model(count: int) -> None:
    registry = Registry()
    model = loaded("a" * 64, 1.0)
    registry.swap(serving("momentum", champion=model))
    predictor = Predictor(registry, max_batch_rows=100)
    found = await predictor.batch(predictor.resolve("momentum"), [[float(n), 0.0] for n in range(count)])
    assert found.values.tolist() == [n + 1.0 for n in range(count)]
    assert isinstance(model.model, Sum)
    assert model.model.calls == 1


async def test_empty_and_too_large_batches_are_refused() -> None:
    predictor = Predictor(Registry(), max_batch_rows=3)
    with pytest.raises(InvalidInputError) as raised:
        await predictor.batch(TARGET, [])
    assert fault(raised.value) == ("INVALID_FIELD", ["batch"])
    with pytest.raises(ResourceExhaustedError) as exhausted:
        await predictor.batch(TARGET, [[1.0, 2.0]] * 4)
    assert (exhausted.value.reason, exhausted.value.metadata) == ("BATCH_TOO_LARGE", {"rows": "4", "limit": "3"})


def test_what_a_call_carries_is_bounded() -> None:
    check_call("x" * 128, {str(n): "v" * 256 for n in range(32)})
    with pytest.raises(InvalidInputError) as raised:
        check_call("x" * 129, {**{str(n): "" for n in range(33)}, "k": "v" * 257})
    assert fault(raised.value) == ("INVALID_FIELD", ["request_id", "metadata", "metadata[k]"])
