"""What an artifact store holds, seen from outside of it."""

from __future__ import annotations

from pathlib import Path

from fsspec.core import url_to_fs


def versions(root: str | Path) -> list[str]:
    """Versions of the whole artifacts in a folder or under a URL, sorted."""
    fs, path = url_to_fs(str(root), use_listings_cache=False)
    return sorted(Path(found).parent.name for found in fs.glob(f"{path}/*/artifact.json"))
