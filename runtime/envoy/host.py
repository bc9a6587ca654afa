"""Start a service within Envoy.

The calling process becomes Envoy's keeper (`runtime.envoy.keeper`), with the same pid.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from runtime import tethered
from runtime.envoy import keeper
from runtime.envoy.config import Front, configuration
from runtime.envoy.embedding import Embedding
from runtime.ports import resolved
from runtime.settings import MeshSettings

BEHIND = "QM_BEHIND"
"""Variable that holds the Unix socket on which the service's own gRPC server is to listen."""

ADMIN = "QM_ADMIN"
"""Variable that holds the Unix socket of Envoy's admin interface."""

FOLDER = "QM_FOLDER"

DRAIN_S = 1


def become(
    embedding: Embedding,
    settings: MeshSettings,
    *,
    port: int,
    app: str,
    grpc_paths: Sequence[str],
    rest_paths: Sequence[str],
    objective_ms: float,
    variables: Mapping[str, str],
) -> NoReturn:
    """Replace this process by a keeper of an Envoy that listens on `port` and runs `app` (`module:attribute`).

    `objective_ms` is how long an answer may take under load. `variables` go to the environment of the service within.
    The port must be free: ask first, for a clear error.
    """
    folder = Path(tempfile.mkdtemp(prefix="quantmesh-"))
    front = Front(
        host=resolved(settings.host),  # Envoy takes no names
        port=port,
        grpc_paths=grpc_paths,
        rest_paths=rest_paths,
        app=app,
        module=embedding.module,
        behind=folder / "grpc.sock",
        admin=folder / "admin.sock",
        max_message_bytes=settings.max_message_bytes,
        max_concurrent_calls=settings.max_concurrent_rpcs,
        objective_ms=objective_ms,
    )
    config = folder / "envoy.json"
    config.write_text(json.dumps(configuration(front)))
    command = [
        str(embedding.envoy),
        *("--config-path", str(config)),
        *("--concurrency", "1"),  # Python answers on one thread: more workers would only wait for it
        *("--log-level", "error"),
        *("--log-format", "envoy %l %n: %v"),
        *("--drain-time-s", str(DRAIN_S), "--drain-strategy", "immediate"),
        "--disable-hot-restart",
    ]
    environment = embedding.environment(os.environ) | {
        **variables,
        BEHIND: str(front.behind),
        ADMIN: str(front.admin),
        FOLDER: str(folder),
    }
    sys.stdout.flush()
    sys.stderr.flush()
    keeping = [sys.executable, "-I", "-S", keeper.__file__, str(folder), tethered.__file__, *command]
    os.execve(sys.executable, keeping, environment)
