"""From an artifact in the store to a model that is ready for its first request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import structlog

from inference_svc.costs import Cost
from inference_svc.lane import Lane
from inference_svc.memory import MB, check_fits
from inference_svc.optimized import OptimizedGraphs
from inference_svc.registry import LoadedModel
from inference_svc.settings import InferenceSettings
from modelstore.artifacts import ArtifactStore
from modelstore.onnx_model import CPU, OnnxModel
from runtime.errors import FailedPreconditionError, InvalidInputError
from runtime.times import now_us

log = structlog.get_logger()

CUDA = "CUDAExecutionProvider"

_RUNS = 3
"""Of each batch size: the first pays for its buffers, the best says what the size costs."""

_WORTH_KEEPING = 4 * MB
"""Optimised graphs of smaller models are not kept: they take no time to optimise."""


def providers(gpu_enabled: bool) -> tuple[str, ...]:
    """What runs models, in order of preference. Logs once, at start, when a wish for CUDA stays one."""
    if gpu_enabled and CUDA not in ort.get_available_providers():
        log.warning(
            "INFER_GPU_ENABLED is set, but this ONNX Runtime has no CUDA: the CPU serves "
            "(install onnxruntime-gpu in place of onnxruntime)"
        )
        return CPU
    return (CUDA, *CPU) if gpu_enabled else CPU


def warm_up_rows(batch_size: int) -> Sequence[int]:
    """Batch sizes that a model has seen before it serves: powers of two up to the most rows of a call."""
    sizes = [1]
    while sizes[-1] * 2 < batch_size:
        sizes.append(sizes[-1] * 2)
    return [*sizes, batch_size] if batch_size > 1 else sizes


class Loader:
    """Loads versions, off the event loop."""

    def __init__(self, artifacts: ArtifactStore, settings: InferenceSettings) -> None:
        self._artifacts = artifacts
        self._settings = settings
        self._providers = providers(settings.gpu_enabled)
        self._optimized = OptimizedGraphs(settings.home / "cache" / "optimized")

    async def load(self, version: str) -> LoadedModel:
        """Load a version, its digest verified, and warm it.

        Raises NotFoundError (UNKNOWN_VERSION), FailedPreconditionError (ARTIFACT_CORRUPT, COLUMN_MISMATCH,
        WARM_UP_FAILED, WARM_UP_TOO_SLOW), ResourceExhaustedError (NOT_ENOUGH_MEMORY), UnavailableError
        (ARTIFACTS_UNAVAILABLE), InvalidInputError for what `OnnxModel.load` refuses.
        """
        return await asyncio.to_thread(self._load, version)

    def _load(self, version: str) -> LoadedModel:
        manifest = self._artifacts.get(version).manifest
        onnx = self._artifacts.load_onnx(version)
        check_fits(len(onnx), self._settings.memory_limit_mb * MB)
        model = self._open(version, onnx)
        if model.columns != len(manifest.feature_names):
            raise FailedPreconditionError(
                f"version {version[:12]} takes {model.columns} columns, its manifest names "
                f"{len(manifest.feature_names)} features",
                reason="COLUMN_MISMATCH",
            )
        cost = self._warm(version, model) if self._settings.model_warmup else Cost()
        return LoadedModel(version, manifest, model, now_us(), Lane(cost))

    def _open(self, version: str, onnx: bytes) -> OnnxModel:
        threads = self._settings.intra_op_threads
        if len(onnx) < _WORTH_KEEPING:
            return OnnxModel.load(onnx, threads, providers=self._providers)
        path = self._optimized.path(version, self._providers)
        kept = self._optimized.load(path)
        if kept is not None:
            try:
                return OnnxModel.load(kept, threads, providers=self._providers, optimize=False)
            except InvalidInputError as error:  # written by a runtime that called itself the same
                log.warning("a kept graph does not load: optimising anew", path=str(path), error=error.message)
        draft = self._optimized.draft(path)
        model = OnnxModel.load(onnx, threads, providers=self._providers, optimized_to=draft)
        if draft is not None:
            self._optimized.keep(draft, path)
        return model

    def _warm(self, version: str, model: OnnxModel) -> Cost:
        """Run every batch size, and learn what a call costs."""
        started = time.perf_counter()
        took_s: dict[int, float] = {}
        for rows in warm_up_rows(self._settings.batch_size):
            zeros, best_s = np.zeros((rows, model.columns)), float("inf")
            for _ in range(_RUNS):
                began = time.perf_counter()
                try:
                    model.predict(zeros)
                except Exception as error:  # what a runtime raises shares no base but this
                    raise FailedPreconditionError(
                        f"version {version[:12]} fails on a batch of {rows} rows of zeros: {error}"[:300],
                        reason="WARM_UP_FAILED",
                    ) from error
                best_s = min(best_s, time.perf_counter() - began)
                if time.perf_counter() - started > self._settings.warmup_timeout_s:
                    raise FailedPreconditionError(
                        f"version {version[:12]} is not warm within {self._settings.warmup_timeout_s:g} s "
                        f"(INFER_WARMUP_TIMEOUT_S): a call of {rows} rows takes {best_s:.2g} s",
                        reason="WARM_UP_TOO_SLOW",
                    )
            took_s[rows] = best_s
        few, many = min(took_s), max(took_s)
        return Cost.of_calls((few, took_s[few]), (many, took_s[many]))
