"""When a write counts as done: when the server has it, its disk has it, or its replicas have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from redis.exceptions import ResponseError

from runtime.errors import FailedPreconditionError, UnavailableError
from runtime.redis_client import Client
from streams.catalog import Stream

_WAIT_MS = 2_000
"""How long one attempt waits. With `appendfsync everysec` the disk has a record after a second at most."""


class NotDurableError(UnavailableError):
    """The write is on the server, but not as durable as its stream demands. To write it again does no harm."""


@dataclass(frozen=True, slots=True)
class Durability:
    """A demand beyond the server's memory. `local` is 1 for its disk; `replicas` is how many replicas."""

    stream: str
    local: int
    replicas: int

    @classmethod
    def of(cls, stream: Stream) -> Durability | None:
        """What a stream demands; None for `memory`."""
        if stream.durability == "memory":
            return None
        return cls(stream.name, int(stream.durability == "aof"), stream.replicas)

    @property
    def command(self) -> tuple[str | int, ...]:
        """The command that waits, after the write and on its connection."""
        if self.local:
            return ("WAITAOF", self.local, self.replicas, _WAIT_MS)
        return ("WAIT", self.replicas, _WAIT_MS)

    async def require(self, redis: Client) -> None:
        """Ask the server whether it can do it at all, before anything is written.

        Raises FailedPreconditionError (reason DURABILITY_UNSUPPORTED).
        """
        try:
            await cast(Any, redis).execute_command(*self.command[:-1], 1)
        except ResponseError as error:
            raise FailedPreconditionError(
                f"{self.stream} demands durability {self._name}, which this server cannot give: {error}. WAITAOF needs "
                "Redis 7.2 or newer, or Valkey, with appendonly on; `durability` in streams.yaml sets the demand",
                reason="DURABILITY_UNSUPPORTED",
                metadata={"stream": self.stream, "durability": self._name},
            ) from error

    def check(self, answer: Any) -> None:
        """Look at the command's answer. Raises NotDurableError when it was not in time, or the command failed."""
        if isinstance(answer, Exception):
            raise NotDurableError(f"{self.stream}: {answer}", reason="NOT_DURABLE", retry_after_s=1.0) from answer
        local, replicas = answer if isinstance(answer, list) else (0, answer)
        if local < self.local or replicas < self.replicas:
            raise NotDurableError(
                f"{self.stream}: not {self._name} within {_WAIT_MS / 1000:g} s (disk {local}, replicas {replicas})",
                reason="NOT_DURABLE",
                retry_after_s=1.0,
                metadata={"stream": self.stream, "durability": self._name},
            )

    @property
    def _name(self) -> str:
        return "aof" if self.local else f"replicated({self.replicas})"
