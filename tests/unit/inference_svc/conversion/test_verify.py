"""A difference over the tolerance is found wherever it is, and one within it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_svc.conversion import Tolerance, convert
from inference_svc.conversion.errors import FixedBatchError, ParityError, SampleRowsError, UnsupportedModelError
from inference_svc.conversion.exported import LABEL, PROBABILITIES, Reference, Rows
from inference_svc.conversion.graph import Graph
from inference_svc.conversion.verify import compare, sample, verify
from runtime.errors import InvalidInputError
from tests.unit.inference_svc.conversion.graphs import classifier, exported, linear, manifest, rows

WEIGHTS = np.array([0.1, -0.2, 0.3])


def test_a_right_model_is_verified_and_the_report_says_on_what() -> None:
    report = convert(exported(linear(WEIGHTS), WEIGHTS), rows(), manifest=manifest(3)).verification
    (output,) = report.outputs
    assert (report.rows, report.features, report.batch_sizes) == (200, 3, (1, 2, 7))
    assert output.atol == pytest.approx(1e-4 * np.std(rows().astype(np.float32) @ WEIGHTS))
    assert 0 < output.max_abs_error < 1e-6
    assert report.varies


@pytest.mark.parametrize("wrong", [[0.1, -0.2, 0.3005], [0.1, -0.2, -0.3], [0.0, 0.0, 0.0], [0.1, -0.2, np.nan]])
def test_a_wrong_model_is_caught(wrong: list[float]) -> None:
    with pytest.raises(ParityError) as caught:
        convert(exported(linear(np.array(wrong)), WEIGHTS), rows(), manifest=manifest(3))
    difference = caught.value.difference
    assert caught.value.reason == "PARITY_MISMATCH"
    assert difference.output == "prediction"
    row = rows()[difference.row].astype(np.float32)
    assert difference.original == pytest.approx(float(row @ WEIGHTS), rel=1e-6)
    assert difference.converted == pytest.approx(float(row @ np.array(wrong)), rel=1e-5, nan_ok=True)
    for said in (f"prediction[{difference.row}, 0]", repr(difference.original), repr(difference.converted)):
        assert said in str(caught.value)


def test_a_tolerance_that_was_given_is_the_one_that_holds() -> None:
    off = exported(linear(WEIGHTS * 1.001), WEIGHTS)
    assert convert(off, rows(), manifest=manifest(3), tolerance=Tolerance(rtol=0.002)).verification.rtol == 0.002
    with pytest.raises(ParityError):
        convert(off, rows(), manifest=manifest(3), tolerance=Tolerance(rtol=0.002 / 4, atol=0.0))
    with pytest.raises(InvalidInputError, match="rtol"):
        Tolerance(rtol=-1.0)


finite = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None)
@given(
    st.lists(finite, min_size=1, max_size=20),
    st.data(),
    st.floats(1e-6, 1e-2),
    st.floats(1e-6, 1.0),
    st.booleans(),
)
def test_one_number_decides_by_which_side_of_its_tolerance_it_is_on(
    values: list[float], data: st.DataObject, rtol: float, atol: float, over: bool
) -> None:
    original = np.array(values).reshape(-1, 1)
    row = data.draw(st.integers(0, len(values) - 1))
    allowed = atol + rtol * abs(values[row])
    converted = original.copy()
    converted[row] += allowed * (1.01 if over else 0.99) * data.draw(st.sampled_from([-1.0, 1.0]))
    if not over:
        assert compare("prediction", original, converted, rtol, atol).max_abs_error <= allowed
        return
    with pytest.raises(ParityError) as caught:
        compare("prediction", original, converted, rtol, atol)
    assert (caught.value.difference.row, caught.value.difference.rows_over) == (row, 1)


@pytest.mark.parametrize("batch", [5, 200])
def test_a_fixed_batch_axis_is_refused(batch: int) -> None:
    with pytest.raises(FixedBatchError, match=f"exactly {batch} rows") as caught:
        convert(exported(linear(WEIGHTS, batch=batch), WEIGHTS), rows(), manifest=manifest(3))
    assert caught.value.reason == "FIXED_BATCH"


def test_a_graph_that_only_claims_a_free_batch_axis_is_refused() -> None:
    graph = linear(WEIGHTS)
    shape = graph.graph.initializer.add()
    shape.name, shape.data_type = "shape", 7
    shape.dims.append(2)
    shape.int64_data.extend([200, 1])
    graph.graph.node[2].CopyFrom(graph.graph.node[1])
    graph.graph.node[2].op_type = "Reshape"
    graph.graph.node[2].input[:] = ["m", "shape"]
    graph.graph.node[2].output[:] = ["out"]
    with pytest.raises(FixedBatchError, match="on 1 rows"):
        convert(exported(graph, WEIGHTS), rows(), manifest=manifest(3))


def test_a_row_that_depends_on_its_batch_is_refused() -> None:
    graph = linear(WEIGHTS)
    graph.graph.node[2].op_type = "ReduceMax"  # the batch's best, for every row of it
    graph.graph.node[2].input[:] = ["m"]
    graph.graph.node[2].output[:] = ["best"]
    graph.graph.node.add().CopyFrom(graph.graph.node[1])
    graph.graph.node[3].op_type = "Sub"
    graph.graph.node[3].input[:] = ["m", "best"]
    graph.graph.node[3].output[:] = ["out"]

    def reference(given: Rows) -> tuple[NDArray[Any]]:
        m = given.astype(np.float64) @ WEIGHTS.reshape(-1, 1)
        return (m - m.max(),)

    with pytest.raises(ParityError, match="in a batch of 200, the other one in a batch of 1"):
        convert(exported(graph, WEIGHTS, reference=reference), rows(), manifest=manifest(3))


@pytest.mark.parametrize(
    ("given_rows", "said"),
    [
        (np.zeros((1, 3)), "at least two rows"),
        (np.zeros(3), "at least two rows"),
        ([["a", "b", "c"]] * 2, "no numbers"),
        ([[1.0, 2.0, np.nan]] * 2, r"nan at \[0, 2\]"),
        ([[1.0, 1e39, 0.0]] * 2, r"1e\+39 at \[0, 1\]"),
    ],
)
def test_unusable_sample_rows_are_refused(given_rows: object, said: str) -> None:
    with pytest.raises(SampleRowsError, match=said) as caught:
        sample(given_rows)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.violations[0].field) == ("SAMPLE_ROWS", "sample_rows")


def test_rows_of_another_width_than_the_model_are_refused() -> None:
    with pytest.raises(SampleRowsError, match="2 columns"):
        convert(exported(linear(WEIGHTS), WEIGHTS), rows(columns=2), manifest=manifest(2))


def test_the_original_may_not_give_more_outputs_or_rows_than_the_graph() -> None:
    def doubled(given: Rows) -> tuple[NDArray[Any]]:
        return (np.column_stack([given @ WEIGHTS] * 2),)

    with pytest.raises(UnsupportedModelError, match="shapes"):
        convert(exported(linear(WEIGHTS), WEIGHTS, reference=doubled), rows(), manifest=manifest(3))


def test_what_the_cast_to_float32_does_to_the_original_is_told() -> None:
    steep = exported(
        linear(WEIGHTS),
        WEIGHTS,
        reference=lambda x: (x.astype(np.float64) @ WEIGHTS.reshape(-1, 1) + (x[:, :1].astype(np.float64) == 0.1),),
        takes_float64=True,
    )
    given_rows = rows()
    given_rows[0, 0] = 0.1  # which no float32 is
    assert convert(steep, given_rows, manifest=manifest(3)).verification.float32_effect == pytest.approx(1.0, abs=1e-6)
    exact = given_rows.astype(np.float32).astype(np.float64)
    assert convert(steep, exact, manifest=manifest(3)).verification.float32_effect is None


def test_a_label_may_differ_where_two_classes_tie_and_nowhere_else() -> None:
    graph = Graph(classifier(np.array([1.0, 0.0, 0.0])).SerializeToString())
    given_rows = rows()
    given_rows[3, 0] = 0.0  # both classes at one half

    def flipping(row: int) -> Reference:
        def ask(given: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
            second = 1 / (1 + np.exp(-given[:, 0].astype(np.float64)))
            labels = (second > 0.5).astype(np.int64)
            labels[row] = 1 - labels[row]
            return labels, np.column_stack([1 - second, second])

        return ask

    names = (LABEL, PROBABILITIES)
    tied = verify(graph, names, flipping(3), given_rows, Tolerance())
    assert [(each.differing, each.ties) for each in tied.labels] == [(1, 1)]
    with pytest.raises(ParityError, match=r"label\[5, 0\]"):
        verify(graph, names, flipping(5), given_rows, Tolerance())
