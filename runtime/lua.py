"""Lua scripts of a folder, each run as one atomic step on the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any, cast

from redis.exceptions import NoScriptError

from runtime.redis_client import Client, on_one_connection


class Scripts:
    """The scripts `{name}.lua` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def run(self, redis: Client, name: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        """Run a script by its digest; its text is sent when the server does not have it."""
        text, digest = _read(self._folder / f"{name}.lua")
        try:
            return await cast(Any, redis.evalsha(digest, len(keys), *keys, *args))
        except NoScriptError:  # first use, or a server that restarted
            return await cast(Any, redis.eval(text, len(keys), *keys, *args))

    async def run_then(
        self,
        redis: Client,
        name: str,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
        command: Sequence[str | int],
    ) -> tuple[Any, Any]:
        """Run a script, and a command after it on the same connection: WAIT and WAITAOF wait for what it wrote.

        Returns both answers; an error of the command is returned, not raised.
        """
        text, digest = _read(self._folder / f"{name}.lua")
        for call in (("EVALSHA", digest), ("EVAL", text)):
            commands = ((*call, len(keys), *keys, *args), command)
            answer, followed = await on_one_connection(redis, keys[0], commands)
            if not isinstance(answer, NoScriptError):
                break
        if isinstance(answer, Exception):
            raise answer
        return answer, followed


@cache
def _read(file: Path) -> tuple[str, str]:
    text = file.read_text()
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()
