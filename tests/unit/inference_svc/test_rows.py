"""How rows are read: packed bytes, numbers, and the short way through a batch's wire form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from google.protobuf import unknown_fields
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from inference_svc.convert import rows_of, rows_of_batch
from inference_svc.registry import LoadedModel
from inference_svc.rows import check, of_packed
from modelstore.onnx_model import OnnxModel
from quantmesh.inference.v1 import inference_service_pb2 as pb
from runtime.errors import InvalidInputError
from tests.unit.inference_svc.loaded import loaded

MODEL = loaded("a" * 64, columns=3)


def means(dtype: int) -> OnnxModel:
    """The mean of three numbers of a type."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])],
        "means",
        [helper.make_tensor_value_info("x", dtype, ["n", 3])],
        [helper.make_tensor_value_info("y", dtype, ["n", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return OnnxModel.load(model.SerializeToString())


MEANS = {np.float32: means(TensorProto.FLOAT), np.float64: means(TensorProto.DOUBLE)}


def refused(call: object) -> tuple[str, str]:
    with pytest.raises(InvalidInputError) as raised:
        call()  # type: ignore[operator]
    return raised.value.reason, raised.value.violations[0].field


def of_columns(columns: int) -> LoadedModel:
    return loaded("a" * 64, columns=columns)


UNKNOWN = st.sampled_from([b"", b"\x7a\x03ABC", b"\x78\x12", b"\x7a\x00\x7a\x02\x12\x0a"])
"""Fields that the contract does not have (15, of bytes and a number), one of which holds what begins a row."""


@given(
    rows=st.integers(1, 40).flatmap(lambda n: st.lists(st.lists(st.floats(), min_size=n, max_size=n), min_size=1)),
    model_name=st.sampled_from(["", "champion", "\x12\x1a\n\x18"]),
    request_id=st.text(max_size=5),
    unknown=st.tuples(UNKNOWN, UNKNOWN),
    parts=st.booleans(),
)
def test_a_batch_is_read_bit_for_bit_whatever_is_around_it(
    rows: list[list[float]], model_name: str, request_id: str, unknown: tuple[bytes, bytes], parts: bool
) -> None:
    batch = [pb.FeatureRow(features=row) for row in rows]
    first, second = (batch[:1], batch[1:]) if parts else (batch, [])  # other fields in between are as good
    wire = (
        unknown[0]
        + pb.BatchPredictRequest(batch=first, request_id=request_id).SerializeToString()
        + pb.BatchPredictRequest(batch=second, model_name=model_name).SerializeToString()
        + unknown[1]
    )
    found, path = rows_of_batch(pb.BatchPredictRequest.FromString(wire), of_columns(len(rows[0])))
    assert found.tobytes() == np.array(rows).tobytes()
    assert path(3, 2) == "batch[3].features[2]"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_the_first_row_of_another_length_is_named(lengths: list[int]) -> None:
    request = pb.BatchPredictRequest(batch=[pb.FeatureRow(features=[0.5] * length) for length in lengths])
    wrong = next((index for index, length in enumerate(lengths) if length != 3), None)
    if wrong is None:
        assert rows_of_batch(request, MODEL)[0].shape == (len(lengths), 3)
    else:
        found = refused(lambda: rows_of_batch(request, MODEL))
        assert found == ("FEATURE_COUNT_MISMATCH", f"batch[{wrong}].features")


def test_fields_of_a_later_contract_do_not_shift_the_numbers() -> None:
    row = pb.FeatureRow(features=[1.0, 2.0, 3.0]).SerializeToString()
    later = pb.FeatureRow.FromString(row + b"\x7a\x08ABCDEFGH")  # field 15, 8 bytes
    assert len(unknown_fields.UnknownFieldSet(later)) == 1
    short = pb.FeatureRow.FromString(pb.FeatureRow(features=[1.0, 2.0]).SerializeToString() + b"\x7a\x06ABCDEF")
    batch = pb.BatchPredictRequest(batch=[later, pb.FeatureRow(features=[4.0, 5.0, 6.0])])
    assert rows_of_batch(batch, MODEL)[0].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    batch = pb.BatchPredictRequest(batch=[short])  # as long as a row of three numbers, but it has two
    assert refused(lambda: rows_of_batch(batch, MODEL)) == ("FEATURE_COUNT_MISMATCH", "batch[0].features")


@given(st.lists(st.floats(width=32), min_size=3, max_size=30).filter(lambda values: len(values) % 3 == 0))
def test_packed_rows_are_read_bit_for_bit_in_either_type(values: list[float]) -> None:
    for dtype, kind in (("<f4", pb.FLOAT_TYPE_FLOAT32), ("<f8", pb.FLOAT_TYPE_FLOAT64)):
        packed = pb.PackedRows(type=kind, rows=len(values) // 3, values=np.array(values, dtype).tobytes())
        found, path = rows_of_batch(pb.BatchPredictRequest(packed=packed), MODEL)
        assert np.array_equal(found, np.array(values).reshape(-1, 3), equal_nan=True)
        assert path(1, 2) == "packed.values[1][2]"


PACKED = pb.PackedRows(rows=1, values=np.arange(3.0).tobytes())


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (pb.PredictRequest(features=[1.0], packed=PACKED), ("INVALID_FIELD", "features")),
        (pb.PredictRequest(features=[1.0]), ("FEATURE_COUNT_MISMATCH", "features")),
        (
            pb.PredictRequest(packed=pb.PackedRows(rows=1, values=b"x" * 23)),
            ("FEATURE_COUNT_MISMATCH", "packed.values"),
        ),
        (
            pb.PredictRequest(packed=pb.PackedRows(rows=2, values=b"x" * 24)),
            ("FEATURE_COUNT_MISMATCH", "packed.values"),
        ),
        (pb.PredictRequest(packed=pb.PackedRows(rows=0)), ("INVALID_FIELD", "packed.rows")),
        (pb.PredictRequest(packed=pb.PackedRows(rows=1, values=b"x" * 24, type=9)), ("INVALID_FIELD", "packed.type")),  # type: ignore[arg-type]
    ],
)
def test_rows_at_fault_are_named(request_: pb.PredictRequest, expected: tuple[str, str]) -> None:
    assert refused(lambda: rows_of(request_, MODEL)) == expected


def test_an_empty_batch_and_one_given_twice_are_refused() -> None:
    assert refused(lambda: rows_of_batch(pb.BatchPredictRequest(), MODEL)) == ("INVALID_FIELD", "batch")
    both = pb.BatchPredictRequest(batch=[pb.FeatureRow(features=[1.0, 2.0, 3.0])], packed=PACKED)
    assert refused(lambda: rows_of_batch(both, MODEL)) == ("INVALID_FIELD", "batch")


def test_very_many_bad_values_are_told_in_short() -> None:
    with pytest.raises(InvalidInputError) as raised:
        check(np.full((4096, 50), math.nan), MODEL, of_packed)
    assert raised.value.reason == "NON_FINITE_FEATURE"
    assert len(raised.value.violations) == 20


EDGES = [0.0, -0.0, 5e-324, 3.4028234663852886e38, 3.40282346638529e38, -1e39, 1.3e154, 1.4e154, 1.7976931348623157e308]


@given(
    st.sampled_from(list(MEANS)),
    st.lists(st.lists(st.floats() | st.sampled_from(EDGES), min_size=3, max_size=3), min_size=1, max_size=5),
)
def test_just_the_values_that_an_input_can_hold_are_let_in(dtype: type[np.floating], rows: list[list[float]]) -> None:
    matrix = np.array(rows)
    fits = [[math.isfinite(value) and abs(value) <= float(np.finfo(dtype).max) for value in row] for row in rows]
    model = LoadedModel("a" * 64, MODEL.manifest, MEANS[dtype], 0)
    if all(map(all, fits)):
        check(matrix, model, of_packed)
        return
    with pytest.raises(InvalidInputError) as caught:
        check(matrix, model, of_packed)
    finite = np.isfinite(matrix).all()
    assert caught.value.reason == ("OUT_OF_RANGE" if finite else "NON_FINITE_FEATURE")
    at_fault = np.argwhere(~np.array(fits) if finite else ~np.isfinite(matrix))
    assert [each.field for each in caught.value.violations] == [of_packed(*place) for place in at_fault.tolist()]
