"""The artifact store: immutable, content-addressed models in a folder, on disk or wherever fsspec reaches (S3, GCS).

An artifact is the folder `{version}/` with `model.onnx` and `artifact.json`. The latter is canonical JSON of the
manifest and the digest of the ONNX bytes, its own digest is the version, and it is written last: without it there is no
artifact. Each file is written beside its place and moved there, so nobody ever reads half of one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fsspec.core import url_to_fs

from modelstore.manifest import Manifest, as_document, canonical_json, of_document, validate
from modelstore.names import is_digest
from runtime.errors import FailedPreconditionError, NotFoundError, UnavailableError

_MODEL = "model.onnx"
_ARTIFACT = "artifact.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored model. `version` is the SHA-256 of its manifest and of the digest of its ONNX bytes."""

    version: str
    manifest: Manifest
    onnx_sha256: str
    onnx_size_bytes: int


class ArtifactStore:
    """Blocking: call it in a thread from a service. Safe to use from several threads and processes at once.

    A method raises UnavailableError (reason ARTIFACTS_UNAVAILABLE) when the storage fails it.
    """

    def __init__(self, root: str | Path) -> None:
        """A path, or any URL that fsspec knows. The folder is made when the first artifact is stored."""
        # Listings are never cached: other processes write here.
        self._fs, self._root = url_to_fs(str(root), use_listings_cache=False)

    def put(self, manifest: Manifest, onnx: bytes) -> Artifact:
        """Store a model; storing it again returns the same artifact, and mends it if its files were damaged.

        Whether the bytes are a usable ONNX model is for the caller to check. Raises InvalidInputError for a manifest
        that is out of bounds.
        """
        validate(manifest)
        document, artifact = _describe(manifest, onnx)
        with self._storage():
            if not self._holds(artifact.version, document, artifact.onnx_sha256):
                self._fs.makedirs(self._path(artifact.version), exist_ok=True)
                self._write(self._path(artifact.version, _MODEL), onnx)
                self._write(self._path(artifact.version, _ARTIFACT), document)
        return artifact

    def get(self, version: str) -> Artifact:
        """Describe a version.

        Raises NotFoundError (reason UNKNOWN_VERSION), FailedPreconditionError (reason ARTIFACT_CORRUPT).
        """
        if not is_digest(version):  # nor is it looked for: it would be a path
            raise _unknown(version)
        with self._storage():
            try:
                data: bytes = self._fs.cat_file(self._path(version, _ARTIFACT))
            except FileNotFoundError:
                raise _unknown(version) from None
            if sha256(data).hexdigest() != version:
                raise _corrupt(version, f"{_ARTIFACT} does not have the digest that it is stored under")
            try:
                size_bytes = int(self._fs.size(self._path(version, _MODEL)))
            except FileNotFoundError:
                raise _corrupt(version, f"{_MODEL} is missing") from None
        document = json.loads(data)
        return Artifact(version, of_document(document["manifest"]), document["onnx_sha256"], size_bytes)

    def load_onnx(self, version: str) -> bytes:
        """The ONNX bytes, checked against their digest. Raises what `get` raises."""
        artifact = self.get(version)
        with self._storage():
            onnx: bytes = self._fs.cat_file(self._path(version, _MODEL))
        if sha256(onnx).hexdigest() != artifact.onnx_sha256:
            raise _corrupt(version, f"{_MODEL} does not have the digest in {_ARTIFACT}")
        return onnx

    def _holds(self, version: str, document: bytes, onnx_sha256: str) -> bool:
        try:
            if self._fs.cat_file(self._path(version, _ARTIFACT)) != document:
                return False
            return sha256(self._fs.cat_file(self._path(version, _MODEL))).hexdigest() == onnx_sha256
        except FileNotFoundError:
            return False

    def _write(self, path: str, data: bytes) -> None:
        part = f"{path}.{uuid.uuid4().hex}.part"
        try:
            self._fs.pipe_file(part, data)
            self._fs.mv(part, path)
        except BaseException:
            if self._fs.exists(part):
                self._fs.rm_file(part)
            raise

    def _path(self, *names: str) -> str:
        return "/".join((self._root, *names))

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnavailableError(
                f"the artifact store at {self._root} failed: {error}", reason="ARTIFACTS_UNAVAILABLE", retry_after_s=1.0
            ) from error


def _describe(manifest: Manifest, onnx: bytes) -> tuple[bytes, Artifact]:
    onnx_sha256 = sha256(onnx).hexdigest()
    document = canonical_json({"manifest": as_document(manifest), "onnx_sha256": onnx_sha256})
    return document, Artifact(sha256(document).hexdigest(), manifest, onnx_sha256, len(onnx))


def _unknown(version: str) -> NotFoundError:
    shown = version[:80]
    return NotFoundError(
        f"no model has version {shown!r}: register it first",
        reason="UNKNOWN_VERSION",
        field="version",
        metadata={"version": shown},
    )


def _corrupt(version: str, what: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the artifact {version} is damaged ({what}): register the model again to mend it",
        reason="ARTIFACT_CORRUPT",
        metadata={"version": version},
    )
