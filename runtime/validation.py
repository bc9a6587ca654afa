"""Collect what is wrong with a request, so that a caller is told everything at once, field by field."""

from __future__ import annotations

import itertools
import uuid

from runtime.errors import FieldViolation, InvalidInputError

MAX_REQUEST_ID_CHARS = 128

_LISTED_AT_MOST = 20

_PROCESS = uuid.uuid4().hex[:16]
_COUNT = itertools.count()


class Violations:
    """What is wrong with one request. Field names are paths: `features[3].available_at`."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """Note that a field is wrong; the description names the fix."""
        self._found.append(FieldViolation(field, description))

    def text(self, field: str, value: str, *, max_chars: int, required: bool = False) -> None:
        """Check the length of a text."""
        if required and not value:
            self.add(field, "is required")
        elif len(value) > max_chars:
            self.add(field, f"has {len(value)} characters; at most {max_chars} are allowed")

    def raise_if_any(self, reason: str = "INVALID_FIELD") -> None:
        """Raise one InvalidInputError that lists the violations (the first 20, and how many more there are)."""
        if not self._found:
            return
        shown = self._found[:_LISTED_AT_MOST]
        first = f"{shown[0].field}: {shown[0].description}"
        more = f" (and {len(self._found) - 1} more)" if len(self._found) > 1 else ""
        raise InvalidInputError(first + more, reason=reason, violations=shown)


def request_id(value: str) -> str:
    """The caller's identity of the call, or a new one: 32 hexadecimal digits."""
    return value or f"{_PROCESS}{next(_COUNT):016x}"
