"""Domain errors: what went wrong, which field, and what to do about it.

The domain raises these and knows neither gRPC nor HTTP. `runtime.grpc_errors` holds the one table from error to gRPC
status, and the gateway the one table from gRPC status to HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request, and what is wrong with it in words that name the fix."""

    field: str
    description: str


class QuantmeshError(Exception):
    """Base of all domain errors.

    `reason` is stable, in UPPER_SNAKE_CASE, and made for programs; the message is made for people.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        field: str = "",
    ) -> None:
        """`field` is the one field of the request that the message is about; `violations` lists several."""
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.violations = (FieldViolation(field, message),) if field else tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class InvalidInputError(QuantmeshError):
    """The caller's input is wrong whatever the state of the system (INVALID_ARGUMENT)."""

    @classmethod
    def of_field(cls, field: str, description: str, *, reason: str = "INVALID_FIELD") -> InvalidInputError:
        """Make the error for one field."""
        return cls(f"{field}: {description}", reason=reason, violations=[FieldViolation(field, description)])


class NotFoundError(QuantmeshError):
    """What was named does not exist (NOT_FOUND)."""


class FailedPreconditionError(QuantmeshError):
    """The system is not in the state that the call needs (FAILED_PRECONDITION)."""


class ResourceExhaustedError(QuantmeshError):
    """A limit was reached (RESOURCE_EXHAUSTED); `retry_after_s` is set when waiting helps."""


class DeadlineExceededError(QuantmeshError):
    """The caller's time ran out before the work was done (DEADLINE_EXCEEDED)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="DEADLINE_EXCEEDED")


class UnavailableError(QuantmeshError):
    """Something this service stands on is away for now (UNAVAILABLE): retry."""


class UnimplementedError(QuantmeshError):
    """A call that the contract has and this service does not do (UNIMPLEMENTED)."""


class ConfigurationError(QuantmeshError):
    """The process cannot serve as it is set up; the message names the setting. Trying again would not help."""


class PortInUseError(ConfigurationError):
    """A listener's port is taken; the message names the setting to change."""

    def __init__(self, host: str, port: int, setting: str, holder: str = "another process: end it") -> None:
        """`holder` says who has the port, and how to have it back."""
        super().__init__(
            f"port {port} on {host} is taken by {holder}, or set {setting} to a free port",
            reason="PORT_IN_USE",
            metadata={"port": str(port), "setting": setting},
        )
