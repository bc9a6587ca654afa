"""Optimised graphs, kept by the digest of their model, so that a replica that starts again need not optimise anew.

What is kept depends on the runtime's version and on the processor, so both are in its name; a file that was cut short
or changed does not match its checksum and is made again.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import onnxruntime as ort
import structlog

log = structlog.get_logger()


class OptimizedGraphs:
    """A folder of optimised graphs. Losing it costs time only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, version: str, providers: tuple[str, ...]) -> Path:
        """Where the optimised graph of a version is kept."""
        on = "-".join(sorted(each.removesuffix("ExecutionProvider") for each in providers))
        return self._folder / f"{version}-{ort.__version__}-{platform.machine()}-{on}.onnx"

    def load(self, path: Path) -> bytes | None:
        """The graph that is kept there; None when there is none that can be trusted."""
        try:
            data = path.read_bytes()
            expected = path.with_suffix(".sha256").read_text()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != expected:
            log.warning("a kept graph does not match its checksum: optimising anew", path=str(path))
            return None
        return data

    def draft(self, path: Path) -> Path | None:
        """Where to write a graph before it is kept; None when the folder cannot be written."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.info("optimised graphs are not kept", error=str(error))
            return None
        return path.with_suffix(f".{os.getpid()}.draft")

    def keep(self, draft: Path, path: Path) -> None:
        """Keep what was written to a draft."""
        try:
            checksum = path.with_suffix(".sha256")
            written = checksum.with_suffix(f".{os.getpid()}.sum")
            written.write_text(hashlib.sha256(draft.read_bytes()).hexdigest())
            draft.replace(path)
            written.replace(checksum)
        except OSError as error:
            log.info("an optimised graph is not kept", path=str(path), error=str(error))
