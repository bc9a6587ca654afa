"""A manifest as a file: `quantmesh.mlops.v1.ModelManifest` in JSON, which `quantmesh models register` reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from modelstore.manifest import Manifest, as_document

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def dumps(manifest: Manifest) -> bytes:
    """The manifest as JSON, with the names of the contract. Equal manifests give equal bytes."""
    document = as_document(manifest)
    cutoff = document.pop("training_cutoff_us")
    if cutoff is not None:
        document["training_cutoff"] = (_EPOCH + timedelta(microseconds=cutoff)).isoformat().replace("+00:00", "Z")
    document["seed"] = str(document["seed"])  # JSON's numbers hold no uint64
    return pretty(document)


def pretty(document: Any) -> bytes:
    """JSON values for people and programs: sorted, indented, one newline at the end."""
    return json.dumps(document, sort_keys=True, indent=2).encode() + b"\n"
