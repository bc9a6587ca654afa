"""Settings as environment variables, so that a child process reads the very values that its mesh was built from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from runtime.environment import variable
from runtime.settings import MeshSettings


def variables(settings: MeshSettings) -> dict[str, str | None]:
    """Every field by its variable's name; None stands for a variable that must not be set."""
    return {
        variable(type(settings), field): value if value is None or isinstance(value, str) else json.dumps(value)
        for field, value in settings.model_dump(mode="json").items()
    }


def child_environment(inherited: Mapping[str, str], settings: MeshSettings, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of every child: what is inherited, under the settings, under `extra`."""
    environment = dict(inherited)
    for name, value in variables(settings).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return {**environment, **extra}
