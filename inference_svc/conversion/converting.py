"""From a fitted model to ONNX with a manifest, verified: the Python side of `quantmesh convert`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inference_svc.conversion import canonical, manifest_file, quantize
from inference_svc.conversion.errors import FEATURE_NAMES_MISMATCH, SUPPORTED, SampleRowsError, UnsupportedModelError
from inference_svc.conversion.exported import Exported
from inference_svc.conversion.frameworks import roots
from inference_svc.conversion.graph import Graph
from inference_svc.conversion.quantize import Int8Report, Mode
from inference_svc.conversion.verify import Tolerance, Verification, sample, verify
from modelstore.manifest import Manifest, canonical_json, validate
from runtime.errors import InvalidInputError

MODEL_FILE, MANIFEST_FILE, REPORT_FILE = "model.onnx", "manifest.json", "report.json"

LEAST_RANK_CORRELATION = 0.99
"""Least rank correlation between an int8 model and its original, unless the caller says otherwise."""

_TREE_HINT = (
    "When few rows differ, a tree splits exactly at their values, and a step before it rounds otherwise; when most do, "
    "the converter leaves something of the model out"
)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model, ready to register: equal models and manifests give equal bytes, and so the same version.

    `verification` compares the float32 model with the original; `int8` is None unless it was asked for, and then
    `onnx` is the int8 model.
    """

    onnx: bytes
    manifest: Manifest
    opsets: dict[str, int]
    verification: Verification
    int8: Int8Report | None = None

    @property
    def onnx_sha256(self) -> str:
        """Digest of the ONNX bytes, 64 lower-case hexadecimal characters."""
        return sha256(self.onnx).hexdigest()

    def report(self) -> dict[str, Any]:
        """What was verified, as JSON values."""
        return {
            "onnx_sha256": self.onnx_sha256,
            "onnx_size_bytes": len(self.onnx),
            "framework": self.manifest.framework,
            "opsets": self.opsets,
            "verification": asdict(self.verification),
            "int8": None if self.int8 is None else asdict(self.int8),
        }

    def write(self, folder: Path) -> None:
        """Write `model.onnx`, `manifest.json` (as `quantmesh models register` reads it) and `report.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.onnx)
        (folder / MANIFEST_FILE).write_bytes(manifest_file.dumps(self.manifest))
        (folder / REPORT_FILE).write_bytes(manifest_file.pretty(self.report()))


def convert(
    model: Any,
    sample_rows: ArrayLike,
    *,
    manifest: Manifest,
    tolerance: Tolerance | None = None,
    int8: Mode | None = None,
    least_rank_correlation: float = LEAST_RANK_CORRELATION,
) -> Conversion:
    """Convert a fitted model, and verify it on sample rows.

    `model` is an object of a framework (see `errors.SUPPORTED`), or what a `from_…` function of this package gave, for
    what only that one can be told. `sample_rows` [N, F], N >= 2 and best some hundreds like those that will be scored,
    are finite numbers; both models are given them as float32. `manifest.feature_names` may be empty when the model
    knows its features' names, and must be equal to them when it does; `manifest.framework` may be empty. `tolerance`
    defaults to `Tolerance()`.

    Raises ParityError when the ONNX model answers differently, FixedBatchError, SampleRowsError, UnsupportedModelError,
    MissingFrameworkError; InvalidInputError for a manifest out of bounds, names that are not the model's
    (FEATURE_NAMES_MISMATCH), and for `int8`: NOTHING_TO_QUANTISE, INT8_PARITY.
    """
    rows = sample(sample_rows)
    exported = model if isinstance(model, Exported) else export(model, rows)
    described = _described(manifest, exported, rows.shape[1])
    graph = canonical.canonical(exported)
    canonical.declare_outputs(graph, _output_columns(Graph(graph.SerializeToString()), rows))
    onnx = canonical.serialised(graph, _metadata(exported, canonical.opsets(graph), None))
    trees = any(node.op_type.startswith("TreeEnsemble") for node in graph.graph.node)
    verification = verify(
        Graph(onnx),
        exported.output_names,
        exported.reference,
        rows,
        tolerance or Tolerance(),
        takes_float64=exported.takes_float64,
        hint=_TREE_HINT if trees else "",
    )
    if int8 is None:
        return Conversion(onnx, described, canonical.opsets(graph), verification)
    small = canonical.canonical(replace(exported, graph=quantize.to_int8(graph, rows, int8)))
    after = canonical.serialised(small, _metadata(exported, canonical.opsets(small), int8))
    originals = [np.asarray(each).reshape(len(rows), -1) for each in exported.reference(rows.astype(np.float32))]
    report = quantize.int8_report(int8, exported.output_names, originals, rows, onnx, after)
    quantize.require_parity(report, least_rank_correlation)
    return Conversion(after, described, canonical.opsets(small), verification, report)


def export(model: Any, rows: NDArray[np.float64]) -> Exported:
    """Export a model by the framework that its class is of. Raises as the `from_…` functions do."""
    found, columns = roots(model), rows.shape[1]
    if "lightgbm" in found:
        from inference_svc.conversion.from_lightgbm import from_lightgbm

        return from_lightgbm(model, columns)
    if "xgboost" in found:
        from inference_svc.conversion.from_xgboost import from_xgboost

        return from_xgboost(model, columns)
    if "keras" in found:  # before torch: on that backend its models are modules too
        from inference_svc.conversion.from_tensorflow import from_keras

        return from_keras(model, columns)
    if "torch" in found:
        from inference_svc.conversion.from_torch import from_torch

        return from_torch(model, rows)
    if "tensorflow" in found:
        from inference_svc.conversion.from_tensorflow import from_saved_model

        return from_saved_model(model, columns)
    if "sklearn" in found:
        from inference_svc.conversion.from_sklearn import from_sklearn

        return from_sklearn(model, columns)
    raise UnsupportedModelError(
        f"{type(model).__module__}.{type(model).__qualname__} is no model. Supported: {SUPPORTED}"
    )


def _described(manifest: Manifest, exported: Exported, columns: int) -> Manifest:
    given, known = tuple(manifest.feature_names), exported.feature_names
    if given and known and given != known:
        at = next((i for i, (one, other) in enumerate(zip(given, known, strict=False)) if one != other), None)
        what = f"column {at} is {given[at]!r} there and {known[at]!r} here" if at is not None else "one has more"
        raise InvalidInputError.of_field(
            "manifest.feature_names",
            f"are not the names that the model was fitted with, in their order: {what}",
            reason=FEATURE_NAMES_MISMATCH,
        )
    described = replace(manifest, feature_names=given or known, framework=manifest.framework or exported.framework)
    validate(described)
    if len(described.feature_names) != columns:
        raise SampleRowsError(f"have {columns} columns; the manifest names {len(described.feature_names)} features")
    return described


def _output_columns(graph: Graph, rows: NDArray[np.float64]) -> list[int | None]:
    few, more = (graph.run_batch(rows[:count].astype(np.float32)) for count in (1, 2))
    columns: list[int | None] = []
    for one, other in zip(few, more, strict=True):
        if one.shape[1:] != other.shape[1:]:
            raise UnsupportedModelError(
                f"an output has {list(one.shape)} numbers for one row, {list(other.shape)} for two"
            )
        columns.append(int(one.shape[1]) if one.ndim == 2 else None)
    return columns


def _metadata(exported: Exported, opsets: dict[str, int], int8: Mode | None) -> str:
    return canonical_json({"framework": exported.framework, "opsets": opsets, "int8": int8}).decode()
