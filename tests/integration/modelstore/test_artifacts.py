"""The artifact store on a real disk: content-addressed, idempotent, and damage is found and mended."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from modelstore.artifacts import Artifact, ArtifactStore
from modelstore.manifest import Manifest
from runtime.errors import FailedPreconditionError, InvalidInputError, NotFoundError, UnavailableError
from tests.stored import versions

ONNX = bytes(range(256)) * 10
MANIFEST = Manifest("ridge", "us_equities", "equities_daily", ("a", "b"), "fraction", metrics={"r2": 0.1})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(root)


def test_what_was_put_is_found_by_any_store_on_the_same_folder(store: ArtifactStore, root: Path) -> None:
    artifact = store.put(MANIFEST, ONNX)
    assert artifact == Artifact(artifact.version, MANIFEST, sha256(ONNX).hexdigest(), len(ONNX))
    again = ArtifactStore(str(root))
    assert again.get(artifact.version) == artifact
    assert again.load_onnx(artifact.version) == ONNX
    assert versions(root) == [artifact.version]


def test_putting_it_again_gives_the_same_version_and_leaves_the_files_alone(store: ArtifactStore, root: Path) -> None:
    artifact = store.put(MANIFEST, ONNX)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert store.put(MANIFEST, ONNX) == artifact
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_another_manifest_or_other_bytes_are_another_version(store: ArtifactStore, root: Path) -> None:
    different = {
        store.put(MANIFEST, ONNX).version,
        store.put(replace(MANIFEST, seed=1), ONNX).version,
        store.put(MANIFEST, ONNX + b"x").version,
    }
    assert len(different) == 3
    assert versions(root) == sorted(different)


def test_many_writers_of_one_artifact_leave_one_whole_artifact(store: ArtifactStore, root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        artifacts = set(pool.map(lambda _: store.put(MANIFEST, ONNX).version, range(16)))
    assert len(artifacts) == 1
    assert store.load_onnx(artifacts.pop()) == ONNX
    assert sorted(path.name for path in root.rglob("*.*")) == ["artifact.json", "model.onnx"]


def test_a_manifest_out_of_bounds_is_refused_and_nothing_is_written(store: ArtifactStore, root: Path) -> None:
    with pytest.raises(InvalidInputError):
        store.put(replace(MANIFEST, name=""), ONNX)
    assert not root.exists()


@pytest.mark.parametrize("version", ["0" * 64, "", "..", "../models", "A" * 64])
def test_an_unknown_version(store: ArtifactStore, version: str) -> None:
    store.put(MANIFEST, ONNX)
    for look in (store.get, store.load_onnx):
        with pytest.raises(NotFoundError) as caught:
            look(version)
        assert caught.value.reason == "UNKNOWN_VERSION"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_model_is_never_handed_out_and_is_mended_by_putting_it_again(
    store: ArtifactStore, root: Path, damage: str
) -> None:
    version = store.put(MANIFEST, ONNX).version
    file = root / version / "model.onnx"
    if damage == "flip":
        file.write_bytes(b"\xff" + ONNX[1:])
    elif damage == "truncate":
        file.write_bytes(ONNX[:-1])
    else:
        file.unlink()
    with pytest.raises(FailedPreconditionError) as caught:
        store.load_onnx(version)
    assert caught.value.reason == "ARTIFACT_CORRUPT"
    store.put(MANIFEST, ONNX)
    assert store.load_onnx(version) == ONNX


def test_a_damaged_manifest_is_never_handed_out(store: ArtifactStore, root: Path) -> None:
    version = store.put(MANIFEST, ONNX).version
    file = root / version / "artifact.json"
    file.write_bytes(file.read_bytes().replace(b"ridge", b"lasso"))
    with pytest.raises(FailedPreconditionError) as caught:
        store.get(version)
    assert caught.value.reason == "ARTIFACT_CORRUPT"


def test_a_write_that_was_cut_off_is_no_artifact(store: ArtifactStore, root: Path) -> None:
    version = store.put(MANIFEST, ONNX).version
    (root / version / "artifact.json").unlink()
    with pytest.raises(NotFoundError):
        store.get(version)


def test_storage_that_fails_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(UnavailableError) as caught:
        ArtifactStore(tmp_path / "models").put(MANIFEST, ONNX)
    assert caught.value.reason == "ARTIFACTS_UNAVAILABLE"
