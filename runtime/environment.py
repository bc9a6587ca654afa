"""Settings from the environment: read, with every fault named by its variable, and variables that nobody reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError

from runtime.errors import ConfigurationError, FieldViolation
from runtime.settings import MeshSettings

_PREFIXES = ("QUANTMESH_", "INFER_")

OF_SERVICES = frozenset(
    {
        "INFER_BATCH_SIZE",
        "INFER_DETERMINISTIC",
        "INFER_DETERMINISTIC_RPC",
        "INFER_GPU_ENABLED",
        "INFER_INTRA_OP_THREADS",
        "INFER_LISTENER",
        "INFER_MEMORY_LIMIT_MB",
        "INFER_MODEL_WARMUP",
        "INFER_P99_MS_TARGET",
        "INFER_QUEUE_ROWS",
        "INFER_RUNTIME",
        "INFER_SHADOW_BUFFER_KB",
        "INFER_SHADOW_CPU_SHARE",
        "INFER_THREADS",
        "INFER_WARMUP_TIMEOUT_S",
        "QUANTMESH_GATEWAY_MAX_BODY_BYTES",
        "QUANTMESH_GATEWAY_TIMEOUT_S",
        "QUANTMESH_INFERENCE_ADDRESS",
        "QUANTMESH_MAX_BATCH_ROWS",
        "QUANTMESH_MAX_MODEL_BYTES",
        "QUANTMESH_MAX_REGISTERING_BYTES",
        "QUANTMESH_SWAP_WAIT_S",
    }
)
"""What single services read beyond `MeshSettings`. A test holds it against their settings."""

_OF_TESTS = frozenset({"QUANTMESH_FAIL_POINTS", "QUANTMESH_TEST_TOPOLOGY"})

S = TypeVar("S", bound=MeshSettings)


def variable(kind: type[MeshSettings], field: str) -> str:
    """Name of the variable that a field is read from."""
    info = kind.model_fields.get(field)
    if info is not None and isinstance(info.validation_alias, str):
        return info.validation_alias
    return f"{kind.model_config.get('env_prefix', '')}{field}".upper()


def read(kind: type[S]) -> S:
    """Read the environment. Raises ConfigurationError (reason SETTINGS_INVALID), one violation for each variable."""
    try:
        return kind()
    except ValidationError as error:
        wrong = []
        for problem in error.errors():
            name = variable(kind, str(problem["loc"][0]) if problem["loc"] else "")
            if problem["type"] == "value_error":  # from a validator of ours; its words need no more, and may be secret
                said = str(problem["ctx"]["error"])
            else:
                said = f"{problem['msg']} (it is {problem.get('input')!r})"
            wrong.append(FieldViolation(name, said))
        raise ConfigurationError(
            "\n".join(
                each.description if each.field in each.description else f"setting {each.field}: {each.description}"
                for each in wrong
            ),
            reason="SETTINGS_INVALID",
            violations=wrong,
        ) from None


def unread(names: Iterable[str]) -> list[str]:
    """What to say of each variable that looks like a setting and is none."""
    known = OF_SERVICES | {variable(MeshSettings, field) for field in MeshSettings.model_fields}
    said = []
    for name in sorted(set(names) - known - _OF_TESTS):
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            continue
        # Without the prefix, which would make all of them alike.
        rests = [each.removeprefix(prefix) for each in known if each.startswith(prefix)]
        meant = difflib.get_close_matches(name.removeprefix(prefix), rests, 1, cutoff=0.75)
        if meant:
            said.append(f"{name} is not a setting: did you mean {prefix}{meant[0]}?")
        elif prefix == _PREFIXES[0]:  # the other may well be another program's too
            said.append(f"{name} is not a setting")
    return said
