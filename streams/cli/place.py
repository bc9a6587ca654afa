"""Where the commands find Redis and the catalog, and how one ends that cannot reach them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

import typer
from pydantic import ValidationError
from redis.exceptions import RedisError
from yaml import YAMLError

from runtime.cli.output import call, fail
from runtime.errors import ConfigurationError, FailedPreconditionError, UnavailableError
from runtime.process import EX_CONFIG, load_settings
from runtime.redis_client import AWAY, Client, connect, without_password
from runtime.settings import MeshSettings
from runtime.supervisor.record import find_record
from streams.catalog import Catalog, Stream, load_catalog
from streams.operations.inspect import bound_partitions, existing_streams

Result = TypeVar("Result")
Work: TypeAlias = Callable[[Client, Catalog], Awaitable[Result]]


def run(catalog: Path | None, as_json: bool, work: Work[Result], settings: MeshSettings | None = None) -> Result:
    """Do the work of a command on the mesh's Redis; what goes wrong ends the command with one clear line.

    `settings` are those that the command has read already.
    """
    settings = settings or load_settings(MeshSettings)
    try:
        return call(_connected(settings, catalog, as_json, work), as_json)
    except ValidationError as error:
        fail(as_json, "", f"{catalog}: {error}", "CATALOG_INVALID", exit_code=EX_CONFIG)
    except YAMLError as error:
        fail(as_json, "", f"{catalog}: {error}", "CATALOG_INVALID", exit_code=EX_CONFIG)


async def _connected(settings: MeshSettings, catalog: Path | None, as_json: bool, work: Work[Result]) -> Result:
    url = _redis_url(settings)
    try:
        async with connect(url) as redis:
            partitions = await bound_partitions(
                redis, settings.partitions, is_set="partitions" in settings.model_fields_set
            )
            return await work(redis, load_catalog(partitions, catalog) if catalog else load_catalog(partitions))
    except ConfigurationError as error:
        fail(as_json, "", error.message, error.reason, exit_code=EX_CONFIG)
    except BrokenPipeError:  # whoever read the output has gone
        raise
    except (RedisError, OSError) as error:
        where = without_password(url)
        if isinstance(error, AWAY):
            raise UnavailableError(f"Redis at {where}: {error}", reason="REDIS_UNAVAILABLE") from error
        raise FailedPreconditionError(f"Redis at {where} refused: {error}", reason="REDIS_REFUSED") from error


def _redis_url(settings: MeshSettings) -> str:
    if settings.redis_url is not None:
        return settings.redis_url
    record = find_record(settings.home)
    if record is None:
        raise UnavailableError(
            f"no mesh runs on {settings.home}: start it with `quantmesh up`, or set QUANTMESH_REDIS_URL",
            reason="REDIS_NOT_CONFIGURED",
        )
    return record.redis_url


async def chosen(redis: Client, catalog: Catalog, stream: str | None) -> list[Stream]:
    """The stream that was named, or all that there are. Raises NotFoundError."""
    return [catalog.stream(stream)] if stream is not None else await existing_streams(redis, catalog)


def confirm(yes: bool, question: str) -> None:
    """Ask before something that cannot be undone, unless --yes was given."""
    if not yes:
        typer.confirm(question, abort=True, err=True)
