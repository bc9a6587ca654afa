"""The manifest: what a model is and where it came from. It is part of the artifact, and as immutable."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from modelstore.names import check_digest, check_strategy
from runtime.errors import InvalidInputError
from runtime.validation import Violations

MAX_FEATURES = 4096
MAX_NAME_CHARS = 128
MAX_UNIT_CHARS = 64

_MAX_SEED = 2**64 - 1
_MAX_TRIALS = 2**32 - 1
# What a protobuf Timestamp can hold: years 1 to 9999.
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


@dataclass(frozen=True, slots=True)
class Manifest:
    """See `quantmesh.mlops.v1.ModelManifest`, which documents each field with its unit and bounds."""

    name: str
    strategy: str
    feature_set: str
    feature_names: tuple[str, ...]
    prediction_unit: str
    signal_threshold: float = 0.0
    framework: str = ""
    training_data_sha256: str = ""
    training_cutoff_us: int | None = None
    code_version: str = ""
    seed: int = 0
    trial_count: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)


def validate(manifest: Manifest) -> None:
    """Check every field against its bounds. Raises InvalidInputError with all faults, by path (`manifest.name`)."""
    violations = Violations()
    violations.text("manifest.name", manifest.name, max_chars=MAX_NAME_CHARS, required=True)
    check_strategy(violations, "manifest.strategy", manifest.strategy)
    violations.text("manifest.feature_set", manifest.feature_set, max_chars=MAX_NAME_CHARS, required=True)
    _check_feature_names(violations, manifest.feature_names)
    violations.text("manifest.prediction_unit", manifest.prediction_unit, max_chars=MAX_UNIT_CHARS, required=True)
    if not (math.isfinite(manifest.signal_threshold) and manifest.signal_threshold >= 0):
        violations.add("manifest.signal_threshold", f"is {manifest.signal_threshold}; must be finite, and 0 or more")
    violations.text("manifest.framework", manifest.framework, max_chars=MAX_NAME_CHARS)
    if manifest.training_data_sha256:
        check_digest(violations, "manifest.training_data_sha256", manifest.training_data_sha256)
    if manifest.training_cutoff_us is not None and not _FIRST_US <= manifest.training_cutoff_us <= _LAST_US:
        violations.add("manifest.training_cutoff", "must lie in the years 1 to 9999")
    violations.text("manifest.code_version", manifest.code_version, max_chars=MAX_NAME_CHARS)
    if not 0 <= manifest.seed <= _MAX_SEED:
        violations.add("manifest.seed", f"is {manifest.seed}; must be 0 to 2^64 - 1")
    if not 1 <= manifest.trial_count <= _MAX_TRIALS:
        violations.add("manifest.trial_count", f"is {manifest.trial_count}; must be at least 1, the model itself")
    for name, value in manifest.metrics.items():
        if not math.isfinite(value):
            violations.add(f"manifest.metrics[{name[:MAX_NAME_CHARS]}]", f"is {value}; must be a finite number")
    violations.raise_if_any()


def _check_feature_names(violations: Violations, names: tuple[str, ...]) -> None:
    if not 1 <= len(names) <= MAX_FEATURES:
        violations.add("manifest.feature_names", f"has {len(names)} names; must have 1 to {MAX_FEATURES}")
        return
    first_at: dict[str, int] = {}
    for index, name in enumerate(names):
        violations.text(f"manifest.feature_names[{index}]", name, max_chars=MAX_NAME_CHARS, required=True)
        if first_at.setdefault(name, index) != index:
            violations.add(f"manifest.feature_names[{index}]", f"repeats feature_names[{first_at[name]}]")


def as_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON values. A number of a float field is a float, so that 0 and 0.0 are the same manifest."""
    document = asdict(manifest)
    document["feature_names"] = list(manifest.feature_names)
    document["signal_threshold"] = float(manifest.signal_threshold)
    document["metrics"] = {name: float(value) for name, value in manifest.metrics.items()}
    return document


def of_document(document: Any) -> Manifest:
    """Read `as_document`. Raises InvalidInputError (reason NOT_A_MANIFEST) for anything else."""
    try:
        values = dict(document)
        values["feature_names"] = tuple(values["feature_names"])
        values["metrics"] = dict(values["metrics"])
        return Manifest(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError.of_field("manifest", f"is not one: {error}", reason="NOT_A_MANIFEST") from error


def canonical_json(document: Any) -> bytes:
    """The one spelling of JSON values: sorted keys, no spaces, ASCII. Raises ValueError for NaN and infinity."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def to_json(manifest: Manifest) -> bytes:
    """Canonical JSON: equal manifests give equal bytes."""
    return canonical_json(as_document(manifest))
