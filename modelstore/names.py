"""How strategies and digests are spelled: a name that passes here is safe as a Redis field and as a file name."""

from __future__ import annotations

import re

from runtime.validation import Violations

_STRATEGY = re.compile(r"[a-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_strategy(value: str) -> bool:
    """Lower-case letters, digits, `_` and `-`; 1 to 64 characters."""
    return _STRATEGY.fullmatch(value) is not None


def is_digest(value: str) -> bool:
    """A SHA-256 as 64 lower-case hexadecimal characters; a model's version is one."""
    return _DIGEST.fullmatch(value) is not None


def check_strategy(violations: Violations, field: str, value: str) -> None:
    """Note a strategy that is missing or misspelled."""
    if not value:
        violations.add(field, "is required")
    elif not is_strategy(value):
        violations.add(field, f"is {value[:80]!r}; use lower-case letters, digits, _ and -, at most 64 characters")


def check_digest(violations: Violations, field: str, value: str) -> None:
    """Note a digest that is missing or misspelled."""
    if not value:
        violations.add(field, "is required")
    elif not is_digest(value):
        violations.add(field, f"is {value[:80]!r}; must be a SHA-256 as 64 lower-case hexadecimal characters")
