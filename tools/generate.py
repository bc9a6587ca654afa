"""Generate Python from protos/, or check that what is committed is what the generators make today.

`python tools/generate.py gen` writes; `python tools/generate.py --check gen` exits 1 when a file differs.
Only `*_service.proto` files get gRPC code: the others declare no service.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("inference", "quantmesh")
"""Top folders of protos/, and of what is generated."""


def generate(target: Path) -> None:
    """Write the generated tree below `target`, replacing what is there."""
    for package in PACKAGES:
        shutil.rmtree(target / package, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    protos = sorted(path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos").rglob("*.proto"))
    services = [proto for proto in protos if proto.endswith("_service.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "protos")]
    # The plug-ins are found beside this interpreter, whatever PATH says.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    run = [*protoc, f"--python_out={target}", f"--mypy_out=quiet:{target}", *protos]
    subprocess.run(run, check=True, env=environment, cwd=ROOT)
    run = [*protoc, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", *services]
    subprocess.run(run, check=True, env=environment, cwd=ROOT)
    for folder in {module.parent for package in PACKAGES for module in (target / package).rglob("*_pb2.py")}:
        (folder / "py.typed").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Name the files that are in one tree only or differ."""

    def files(root: Path) -> set[str]:
        return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts}

    ours, theirs = files(left), files(right)
    changed = {name for name in ours & theirs if not filecmp.cmp(left / name, right / name, shallow=False)}
    return sorted((ours ^ theirs) | changed)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder of the generated code")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the folder is stale")
    options = parser.parse_args()
    if not options.check:
        generate(options.target.resolve())
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        written, committed = Path(scratch), options.target.resolve()
        stale = [
            f"{package}/{name}" for package in PACKAGES for name in differences(written / package, committed / package)
        ]
    if stale:
        print("gen/ is stale, run `make proto`:", *stale, sep="\n  ", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
