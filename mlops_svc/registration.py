"""Registration: take a model in, in parts, and store it only when it is what its header says and can be served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from modelstore.artifacts import Artifact, ArtifactStore
from modelstore.manifest import Manifest, validate
from modelstore.names import check_digest
from modelstore.onnx_model import COLUMN_MISMATCH, OnnxModel
from runtime.errors import InvalidInputError, ResourceExhaustedError
from runtime.validation import MAX_REQUEST_ID_CHARS, Violations

MAX_CHUNK_BYTES = 1024 * 1024

_RETRY_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Header:
    """What the first part of a registration says. An empty `request_id` means that the call has none."""

    manifest: Manifest
    onnx_sha256: str
    request_id: str = ""


Part: TypeAlias = Header | bytes | None
"""None is a message that holds neither a header nor a chunk."""

Claim: TypeAlias = Callable[[str, Header], Awaitable[None]]
"""Binds a request id to what its call registers; raises InvalidInputError when it is bound to something else."""


class Registrar:
    """Registers models in an artifact store."""

    def __init__(
        self, artifacts: ArtifactStore, claim: Claim, *, max_model_bytes: int, max_registering_bytes: int
    ) -> None:
        self._artifacts = artifacts
        self._claim = claim
        self._max_model_bytes = max_model_bytes
        self._max_registering_bytes = max_registering_bytes
        self._registering_bytes = 0

    async def register(self, parts: AsyncIterable[Part]) -> Artifact:
        """Read the header, then the chunks; check everything; store. Nothing is written before all checks have passed.

        Raises InvalidInputError: HEADER_MISSING, HEADER_REPEATED, CHUNK_TOO_LARGE, DIGEST_MISMATCH, COLUMN_MISMATCH,
        REQUEST_ID_REUSED, what OnnxModel.load raises, INVALID_FIELD; ResourceExhaustedError: MODEL_TOO_LARGE,
        REGISTRATIONS_BUSY (to be tried again).
        """
        header: Header | None = None
        chunks: list[bytes] = []
        size_bytes = 0
        try:
            async for part in parts:
                if header is None:
                    header = _first(part)
                    continue
                chunk = _chunk(part)
                self._hold(len(chunk), size_bytes)
                size_bytes += len(chunk)
                chunks.append(chunk)
            if header is None:
                raise _no_header()
            onnx = b"".join(chunks)
            chunks.clear()  # a large model is in memory once while it is checked
            await asyncio.to_thread(check_model, header, onnx)
            if header.request_id:
                await self._claim(header.request_id, header)
            return await asyncio.to_thread(self._artifacts.put, header.manifest, onnx)
        finally:
            self._registering_bytes -= size_bytes

    def _hold(self, count: int, held: int) -> None:
        """Take so many bytes more into memory, for a registration that has `held` there."""
        if held + count > self._max_model_bytes:
            raise ResourceExhaustedError(
                f"the model has more than {self._max_model_bytes} bytes; QUANTMESH_MAX_MODEL_BYTES is the limit",
                reason="MODEL_TOO_LARGE",
                field="chunk",
                metadata={"limit_bytes": str(self._max_model_bytes)},
            )
        alone = self._registering_bytes == held  # then it passes, so that a model of any allowed size can be registered
        if not alone and self._registering_bytes + count > self._max_registering_bytes:
            raise ResourceExhaustedError(
                f"the models that are being registered have {self._registering_bytes} bytes; "
                "QUANTMESH_MAX_REGISTERING_BYTES is the limit: try again",
                reason="REGISTRATIONS_BUSY",
                metadata={"limit_bytes": str(self._max_registering_bytes)},
                retry_after_s=_RETRY_AFTER_S,
            )
        self._registering_bytes += count


def check_model(header: Header, onnx: bytes) -> None:
    """Check that the bytes are those of the header, load and run as a model, and fit the manifest."""
    found = sha256(onnx).hexdigest()
    if found != header.onnx_sha256:
        raise InvalidInputError.of_field(
            "onnx_sha256",
            f"is {header.onnx_sha256}, but the {len(onnx)} bytes that followed have {found}",
            reason="DIGEST_MISMATCH",
        )
    columns = OnnxModel.load(onnx).columns
    names = len(header.manifest.feature_names)
    if columns != names:
        raise InvalidInputError.of_field(
            "manifest.feature_names",
            f"has {names} names, but the model takes {columns} columns: name each, in order",
            reason=COLUMN_MISMATCH,
        )


def _first(part: Part) -> Header:
    if not isinstance(part, Header):
        raise _no_header()
    validate(part.manifest)
    violations = Violations()
    check_digest(violations, "onnx_sha256", part.onnx_sha256)
    violations.text("request_id", part.request_id, max_chars=MAX_REQUEST_ID_CHARS)
    violations.raise_if_any()
    return part


def _no_header() -> InvalidInputError:
    return InvalidInputError.of_field(
        "header", "is required, in the first message: manifest and onnx_sha256", reason="HEADER_MISSING"
    )


def _chunk(part: Part) -> bytes:
    if isinstance(part, Header):
        raise InvalidInputError.of_field("header", "may come in the first message only", reason="HEADER_REPEATED")
    if part is None:
        raise InvalidInputError.of_field("chunk", "is missing: each message after the first has one")
    if len(part) > MAX_CHUNK_BYTES:
        raise InvalidInputError.of_field(
            "chunk", f"has {len(part)} bytes; at most {MAX_CHUNK_BYTES} are allowed", reason="CHUNK_TOO_LARGE"
        )
    return part
