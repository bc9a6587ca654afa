"""What a registration refuses, before it stores anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from mlops_svc.registration import MAX_CHUNK_BYTES, Header, Part, Registrar
from modelstore.artifacts import ArtifactStore
from runtime.errors import InvalidInputError, QuantmeshError, ResourceExhaustedError
from tests.integration.mlops_svc.models import digest, linear, manifest

ONNX = linear([0.5, -1.0])
HEADER = Header(manifest(), digest(ONNX))


async def no_claim(_request_id: str, _header: Header) -> None:
    pytest.fail("a registration without a request_id claims none")


async def stream(*parts: Part) -> AsyncIterator[Part]:
    for part in parts:
        yield part


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid4().hex}")


async def refused(store: ArtifactStore, *parts: Part, max_model_bytes: int = 10_000_000) -> QuantmeshError:
    with pytest.raises(QuantmeshError) as caught:
        await Registrar(store, no_claim, max_model_bytes).register(stream(*parts))
    assert store.versions() == []
    return caught.value


def fields(error: QuantmeshError) -> list[str]:
    return [violation.field for violation in error.violations]


async def test_chunks_are_put_together_in_order_and_stored(store: ArtifactStore) -> None:
    artifact = await Registrar(store, no_claim, len(ONNX)).register(stream(HEADER, ONNX[:7], b"", ONNX[7:]))
    assert store.load_onnx(artifact.version) == ONNX
    assert artifact.onnx_size_bytes == len(ONNX)


@pytest.mark.parametrize("parts", [(), (ONNX,), (None, ONNX)])
async def test_no_header_first(store: ArtifactStore, parts: tuple[Part, ...]) -> None:
    error = await refused(store, *parts)
    assert (error.reason, fields(error)) == ("HEADER_MISSING", ["header"])


async def test_a_second_header(store: ArtifactStore) -> None:
    error = await refused(store, HEADER, HEADER)
    assert (error.reason, fields(error)) == ("HEADER_REPEATED", ["header"])


async def test_a_message_without_a_chunk(store: ArtifactStore) -> None:
    assert fields(await refused(store, HEADER, None)) == ["chunk"]


async def test_a_bad_header_is_refused_before_any_chunk_is_read(store: ArtifactStore) -> None:
    async def parts() -> AsyncIterator[Part]:
        yield replace(HEADER, manifest=replace(HEADER.manifest, name=""))
        pytest.fail("read on after a bad header")

    with pytest.raises(InvalidInputError) as caught:
        await Registrar(store, no_claim, 1000).register(parts())
    assert fields(caught.value) == ["manifest.name"]


async def test_a_misspelled_digest_and_a_long_request_id(store: ArtifactStore) -> None:
    error = await refused(store, Header(manifest(), digest(ONNX).upper(), "x" * 129), ONNX)
    assert fields(error) == ["onnx_sha256", "request_id"]


async def test_a_chunk_over_the_limit(store: ArtifactStore) -> None:
    error = await refused(store, HEADER, bytes(MAX_CHUNK_BYTES + 1))
    assert (error.reason, fields(error)) == ("CHUNK_TOO_LARGE", ["chunk"])


async def test_a_model_over_the_limit(store: ArtifactStore) -> None:
    error = await refused(store, HEADER, ONNX, max_model_bytes=len(ONNX) - 1)
    assert isinstance(error, ResourceExhaustedError)
    assert error.reason == "MODEL_TOO_LARGE"


async def test_bytes_that_are_not_those_of_the_header(store: ArtifactStore) -> None:
    error = await refused(store, HEADER, ONNX[:-1] + b"x")
    assert (error.reason, fields(error)) == ("DIGEST_MISMATCH", ["onnx_sha256"])


@pytest.mark.parametrize("data", [b"", b"this is not ONNX", ONNX[: len(ONNX) // 2]])
async def test_bytes_that_are_not_onnx(store: ArtifactStore, data: bytes) -> None:
    error = await refused(store, Header(manifest(), digest(data)), data)
    assert isinstance(error, InvalidInputError)
    assert fields(error) == ["chunk"]


async def test_a_manifest_with_another_number_of_features(store: ArtifactStore) -> None:
    error = await refused(store, replace(HEADER, manifest=manifest(columns=3)), ONNX)
    assert (error.reason, fields(error)) == ("COLUMN_MISMATCH", ["manifest.feature_names"])
