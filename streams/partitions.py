"""The number of partitions of a server's streams: the same for everyone who uses them, or keys lose their order."""

from __future__ import annotations

from runtime.errors import ConfigurationError
from runtime.redis_client import Client
from streams import keys
from streams.catalog import Catalog


async def require_partitions(redis: Client, catalog: Catalog) -> None:
    """Bind the server to the catalog's number of partitions, or find it bound.

    Raises ConfigurationError (reason PARTITIONS_DIFFER) when it is bound to another number: a key would be looked for
    in a partition where its records and state are not.
    """
    await redis.set(keys.PARTITIONS, catalog.partitions, nx=True)
    bound = int(await redis.get(keys.PARTITIONS) or 0)
    if bound == 0:
        raise ConfigurationError(
            "the streams of this Redis are being given more partitions: start again when that is done",
            reason="PARTITIONS_MOVING",
        )
    if bound != catalog.partitions:
        raise ConfigurationError(
            f"the streams of this Redis have {bound} partitions, not {catalog.partitions}: set QUANTMESH_PARTITIONS to "
            f"{bound} (docs/streams.md says how to change the number)",
            reason="PARTITIONS_DIFFER",
            metadata={"partitions": str(bound), "setting": "QUANTMESH_PARTITIONS"},
        )
