"""The fabric with a guarantee taken out, for the negative controls: copies of its scripts, changed by exact text."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from runtime.lua import Scripts
from streams import scripts

_LUA = Path(scripts.__file__).with_name("lua")

CHANGES: dict[str, list[tuple[str, str, str]]] = {
    "sequences": [
        ("produce.lua", "if first + count - 1 <= last then", "if false then"),
        ("produce.lua", "if first ~= last + 1 then", "if false then"),
    ],
    "event_ids": [("produce.lua", "if event_id ~= '' then", "if false then")],
    "fencing": [
        ("commit.lua", "if lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3] then", "if false then"),
        ("commit.lua", "if offset ~= ARGV[4] then", "if false then"),
    ],
}
"""What can be left out → (script, its text, what stands there instead)."""


def without(what: str) -> Scripts:
    """The scripts of the fabric without a guarantee."""
    folder = Path(tempfile.mkdtemp(prefix="quantmesh-without-"))
    atexit.register(shutil.rmtree, folder)
    shutil.copytree(_LUA, folder, dirs_exist_ok=True)
    for script, text, instead in CHANGES[what]:
        file = folder / script
        before = file.read_text()
        if before.count(text) != 1:
            raise LookupError(f"{script} has no {text!r} any more: the negative control must follow it")
        file.write_text(before.replace(text, instead))
    return Scripts(folder)


def leave_out(what: str) -> None:
    """Make this process, and those that it forks, run without a guarantee."""
    scripts._SCRIPTS = without(what)
