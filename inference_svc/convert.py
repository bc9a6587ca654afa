"""Where protobuf meets the domain: rows and terms of a request, and what an answer is made of."""

from __future__ import annotations

from itertools import chain
from typing import Any, Protocol

import numpy as np

from inference_svc import rows
from inference_svc.admission import Priority
from inference_svc.lane import Work
from inference_svc.registry import LoadedModel, Target
from inference_svc.rows import Matrix, Path
from quantmesh.inference.v1 import inference_service_pb2 as pb
from quantmesh.inference.v1 import model_pb2
from runtime.errors import InvalidInputError
from runtime.times import set_us

_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    pb.PRIORITY_HIGH: Priority.HIGH,
    pb.PRIORITY_NORMAL: Priority.NORMAL,
    pb.PRIORITY_LOW: Priority.LOW,
}
_FLOATS: dict[int, rows.Floats] = {
    pb.FLOAT_TYPE_UNSPECIFIED: rows.FLOAT64,
    pb.FLOAT_TYPE_FLOAT32: rows.FLOAT32,
    pb.FLOAT_TYPE_FLOAT64: rows.FLOAT64,
}


class _OneRow(Protocol):
    """PredictRequest and StreamPredictRequest."""

    @property
    def features(self) -> Any: ...

    @property
    def packed(self) -> pb.PackedRows: ...

    def HasField(self, field_name: Any) -> bool: ...  # noqa: N802


def priority(value: pb.Priority.ValueType) -> Priority:
    """The domain's priority. Raises InvalidInputError for a number that the contract does not have."""
    found = _PRIORITIES.get(value)
    if found is None:
        raise InvalidInputError.of_field("priority", f"is {value}; must be a value of Priority")
    return found


def rows_of(request: _OneRow, loaded: LoadedModel) -> tuple[Matrix, Path]:
    """Rows of a request of one row, or packed rows, and how their fields are named."""
    features = request.features
    if not request.HasField("packed"):
        return rows.one(features, len(features), loaded, "features"), rows.of_one_row
    if features:
        raise InvalidInputError.of_field("features", "must be empty when packed is set")
    return _unpacked(request.packed, loaded), rows.of_packed


def rows_of_batch(request: pb.BatchPredictRequest, loaded: LoadedModel) -> tuple[Matrix, Path]:
    """Rows of a batch, and how their fields are named."""
    batch = request.batch
    if request.HasField("packed"):
        if batch:
            raise InvalidInputError.of_field("batch", "must be empty when packed is set")
        return _unpacked(request.packed, loaded), rows.of_packed
    if not batch:
        raise InvalidInputError.of_field("batch", "needs at least one row")
    columns = loaded.model.columns
    found = _from_wire(request, columns)
    if found is None:
        for index, row in enumerate(batch):
            if len(row.features) != columns:
                raise rows.wrong_count(f"batch[{index}].features", len(row.features), loaded)
        numbers = chain.from_iterable(row.features for row in batch)
        found = np.fromiter(numbers, np.float64, len(batch) * columns).reshape(len(batch), columns)
    return found, rows.of_batch


def _unpacked(packed: pb.PackedRows, loaded: LoadedModel) -> Matrix:
    dtype = _FLOATS.get(packed.type)
    if dtype is None:
        raise InvalidInputError.of_field("packed.type", f"is {packed.type}; must be a value of FloatType")
    return rows.packed(packed.values, dtype, packed.rows, loaded)


def _from_wire(request: pb.BatchPredictRequest, columns: int) -> Matrix | None:
    """Rows by way of their wire form, many times faster than number by number; None unless all have so many numbers.

    On the wire a batch is one record after the other: tag and length of a row, tag and length of its numbers, and these
    as little-endian float64. A record that has this head, at a place where one begins, is a row of so many numbers and
    of nothing else, and the next one begins behind it.
    """
    before = pb.BatchPredictRequest(model_name=request.model_name).SerializeToString()
    one = pb.BatchPredictRequest(batch=[pb.FeatureRow(features=[0.0] * columns)]).SerializeToString()
    data, count, head = request.SerializeToString(), len(request.batch), len(one) - 8 * columns
    # The order of fields is no promise of protobuf's.
    if not data.startswith(before) or len(data) < len(before) + count * len(one):
        return None
    table = np.frombuffer(data, np.uint8, count * len(one), len(before)).reshape(count, len(one))
    if (table[:, :head] != np.frombuffer(one, np.uint8, head)).any():
        return None
    return np.ascontiguousarray(table[:, head:]).view(rows.FLOAT64)


def to_shapes(work: Work) -> list[pb.CallShape]:
    """The receipt of a work."""
    return [pb.CallShape(rows=count, batch_rows=batch_rows) for count, batch_rows in work.shapes]


def to_model(target: Target) -> model_pb2.Model:
    """A loaded model in its role."""
    manifest = target.loaded.manifest
    model = model_pb2.Model(
        name=manifest.name,
        version=target.loaded.version,
        strategy=target.strategy,
        alias=target.role,
        feature_names=manifest.feature_names,
        generation=target.generation,
        prediction_unit=manifest.prediction_unit,
        feature_set=manifest.feature_set,
    )
    set_us(model.loaded_at, target.loaded.loaded_at_us)
    return model
