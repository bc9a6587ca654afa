"""From an artifact in the store to a model that is ready for its first request."""

from __future__ import annotations

import asyncio

import numpy as np
import onnxruntime as ort
import structlog

from inference_svc.registry import LoadedModel
from modelstore.artifacts import ArtifactStore
from modelstore.onnx_model import OnnxModel
from runtime.errors import FailedPreconditionError
from runtime.times import now_us

log = structlog.get_logger()

WARM_UP_ROWS = (1, 8, 32, 128)
"""Batch sizes that a model has seen before it serves: the first call of a size pays for its buffers."""


def say_what_runs(gpu_enabled: bool) -> None:
    """Log once, at start, that a wish for CUDA stays one. The CPU serves."""
    if gpu_enabled:
        present = "CUDAExecutionProvider" in ort.get_available_providers()
        why = "models run on the CPU only in this version" if present else "this ONNX Runtime has no CUDA"
        log.warning(f"INFER_GPU_ENABLED is set, but {why}: the CPU serves")


class Loader:
    """Loads versions, off the event loop."""

    def __init__(self, artifacts: ArtifactStore, *, warm_up: bool) -> None:
        self._artifacts = artifacts
        self._warm_up = warm_up

    async def load(self, version: str) -> LoadedModel:
        """Load a version, its digest verified, and warm it.

        Raises NotFoundError (UNKNOWN_VERSION), FailedPreconditionError (ARTIFACT_CORRUPT, COLUMN_MISMATCH),
        UnavailableError (ARTIFACTS_UNAVAILABLE), InvalidInputError for what `OnnxModel.load` refuses.
        """
        return await asyncio.to_thread(self._load, version)

    def _load(self, version: str) -> LoadedModel:
        manifest = self._artifacts.get(version).manifest
        model = OnnxModel.load(self._artifacts.load_onnx(version))
        if model.columns != len(manifest.feature_names):
            raise FailedPreconditionError(
                f"version {version[:12]} takes {model.columns} columns, its manifest names "
                f"{len(manifest.feature_names)} features",
                reason="COLUMN_MISMATCH",
            )
        if self._warm_up:
            for rows in WARM_UP_ROWS:
                model.predict(np.zeros((rows, model.columns)))
        return LoadedModel(version, manifest, model, now_us())
