"""What a registration refuses, before it stores anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from mlops_svc.registration import MAX_CHUNK_BYTES, Header, Part, Registrar
from modelstore.artifacts import ArtifactStore
from runtime.errors import InvalidInputError, QuantmeshError, ResourceExhaustedError
from tests.integration.mlops_svc.models import digest, linear, manifest
from tests.stored import versions

ONNX = linear([0.5, -1.0])
HEADER = Header(manifest(), digest(ONNX))


async def no_claim(_request_id: str, _header: Header) -> None:
    pytest.fail("a registration without a request_id claims none")


async def stream(*parts: Part) -> AsyncIterator[Part]:
    for part in parts:
        yield part


@pytest.fixture
def root() -> str:
    return f"memory://{uuid4().hex}"


def registrar(root: str, *, max_model_bytes: int = 10_000_000, max_registering_bytes: int = 10_000_000) -> Registrar:
    return Registrar(
        ArtifactStore(root), no_claim, max_model_bytes=max_model_bytes, max_registering_bytes=max_registering_bytes
    )


async def refused(root: str, *parts: Part, max_model_bytes: int = 10_000_000) -> QuantmeshError:
    with pytest.raises(QuantmeshError) as caught:
        await registrar(root, max_model_bytes=max_model_bytes).register(stream(*parts))
    assert versions(root) == []
    return caught.value


def fields(error: QuantmeshError) -> list[str]:
    return [violation.field for violation in error.violations]


async def test_chunks_are_put_together_in_order_and_stored(root: str) -> None:
    parts = stream(HEADER, ONNX[:7], b"", ONNX[7:])
    artifact = await registrar(root, max_model_bytes=len(ONNX)).register(parts)
    assert versions(root) == [artifact.version]
    assert ArtifactStore(root).load_onnx(artifact.version) == ONNX
    assert artifact.onnx_size_bytes == len(ONNX)


@pytest.mark.parametrize("parts", [(), (ONNX,), (None, ONNX)])
async def test_no_header_first(root: str, parts: tuple[Part, ...]) -> None:
    error = await refused(root, *parts)
    assert (error.reason, fields(error)) == ("HEADER_MISSING", ["header"])


async def test_a_second_header(root: str) -> None:
    error = await refused(root, HEADER, HEADER)
    assert (error.reason, fields(error)) == ("HEADER_REPEATED", ["header"])


async def test_a_message_without_a_chunk(root: str) -> None:
    assert fields(await refused(root, HEADER, None)) == ["chunk"]


async def test_a_bad_header_is_refused_before_any_chunk_is_read(root: str) -> None:
    async def parts() -> AsyncIterator[Part]:
        yield replace(HEADER, manifest=replace(HEADER.manifest, name=""))
        pytest.fail("read on after a bad header")

    with pytest.raises(InvalidInputError) as caught:
        await registrar(root).register(parts())
    assert fields(caught.value) == ["manifest.name"]


async def test_a_misspelled_digest_and_a_long_request_id(root: str) -> None:
    error = await refused(root, Header(manifest(), digest(ONNX).upper(), "x" * 129), ONNX)
    assert fields(error) == ["onnx_sha256", "request_id"]


async def test_a_chunk_over_the_limit(root: str) -> None:
    error = await refused(root, HEADER, bytes(MAX_CHUNK_BYTES + 1))
    assert (error.reason, fields(error)) == ("CHUNK_TOO_LARGE", ["chunk"])


async def test_a_model_over_the_limit(root: str) -> None:
    error = await refused(root, HEADER, ONNX, max_model_bytes=len(ONNX) - 1)
    assert isinstance(error, ResourceExhaustedError)
    assert error.reason == "MODEL_TOO_LARGE"


async def test_bytes_that_are_not_those_of_the_header(root: str) -> None:
    error = await refused(root, HEADER, ONNX[:-1] + b"x")
    assert (error.reason, fields(error)) == ("DIGEST_MISMATCH", ["onnx_sha256"])


@pytest.mark.parametrize("data", [b"", b"this is not ONNX", ONNX[: len(ONNX) // 2]])
async def test_bytes_that_are_not_onnx(root: str, data: bytes) -> None:
    error = await refused(root, Header(manifest(), digest(data)), data)
    assert isinstance(error, InvalidInputError)
    assert fields(error) == ["chunk"]


async def test_a_manifest_with_another_number_of_features(root: str) -> None:
    error = await refused(root, replace(HEADER, manifest=manifest(columns=3)), ONNX)
    assert (error.reason, fields(error)) == ("COLUMN_MISMATCH", ["manifest.feature_names"])


async def test_registrations_hold_no_more_memory_together_than_they_may(root: str) -> None:
    one = registrar(root, max_registering_bytes=len(ONNX) + 10)
    holding, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[Part]:
        yield HEADER
        yield ONNX
        holding.set()
        await go_on.wait()

    first = asyncio.create_task(one.register(slow()))
    await asyncio.wait_for(holding.wait(), 5)
    with pytest.raises(ResourceExhaustedError) as caught:
        await one.register(stream(HEADER, ONNX[:10], ONNX[10:]))
    assert caught.value.reason == "REGISTRATIONS_BUSY"
    assert caught.value.retry_after_s
    go_on.set()
    version = (await first).version
    assert (await one.register(stream(HEADER, ONNX))).version == version, "what ended, also in an error, holds nothing"


async def test_a_registration_that_is_alone_passes_whatever_its_size(root: str) -> None:
    artifact = await registrar(root, max_registering_bytes=1).register(stream(HEADER, ONNX[:10], ONNX[10:]))
    assert versions(root) == [artifact.version]
