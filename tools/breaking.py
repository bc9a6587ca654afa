"""Run `buf breaking` against the last commit on main; on main itself, against the commit before.

What a pull request may break is judged by what is on main (`origin/main` where there is such a remote). A history
of one commit has nothing to compare with, and passes.
"""

from __future__ import annotations

import os
import subprocess
import sys


def git(*arguments: str) -> str:
    """Output of a git command; empty when it fails."""
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def base_commit() -> str:
    """The commit to compare with; empty when there is none."""
    head = git("rev-parse", "HEAD")
    dirty = bool(git("status", "--porcelain", "--", "protos"))
    for name in ("origin/main", "main"):
        commit = git("rev-parse", "--verify", "--quiet", name)
        if commit and (commit != head or dirty):
            return git("merge-base", commit, head)
    return git("rev-parse", "--verify", "--quiet", "HEAD~1")


def main() -> int:
    """Entry point; returns buf's exit code."""
    commit = base_commit()
    if not commit or not git("ls-tree", commit, "protos/"):
        print("buf breaking: nothing to compare with yet")
        return 0
    buf = os.environ.get("BUF", "buf")
    return subprocess.run([buf, "breaking", "--against", f".git#ref={commit}"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
