"""A manifest's file is what the registry reads: nothing of it is lost on the way."""

from __future__ import annotations

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from inference_svc.conversion import manifest_file
from mlops_svc.convert import manifest as of_message
from modelstore.manifest import Manifest
from quantmesh.mlops.v1.model_pb2 import ModelManifest

text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
manifests = st.builds(
    Manifest,
    name=text,
    strategy=st.just("momentum"),
    feature_set=text,
    feature_names=st.lists(text, min_size=1, max_size=5, unique=True).map(tuple),
    prediction_unit=text,
    signal_threshold=st.floats(0, 1e300),
    framework=text,
    training_data_sha256=st.just("ab" * 32),
    training_cutoff_us=st.none() | st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    code_version=text,
    seed=st.integers(0, 2**64 - 1),
    trial_count=st.integers(1, 2**32 - 1),
    metrics=st.dictionaries(text, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)


@settings(deadline=None)
@given(manifests)
def test_the_registry_reads_the_manifest_that_was_written(manifest: Manifest) -> None:
    data = manifest_file.dumps(manifest)
    assert of_message(json_format.Parse(data, ModelManifest())) == manifest
    assert data == manifest_file.dumps(manifest)
