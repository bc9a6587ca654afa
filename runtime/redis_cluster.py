"""The client of a Redis Cluster, mended where redis-py's own does not bear a failover.

`redis_client.connect` makes it. A cluster that is away raises what a server that is away raises.
"""

from __future__ import annotations

from typing import Any

from redis import exceptions
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPubSub

from runtime.redis_connections import Plain, Tls
from runtime.redis_topology import Topology


class ClusterClient(RedisCluster):
    """redis-py's client, for a topology and the options that all connections have."""

    def __init__(self, topology: Topology, options: dict[str, Any]) -> None:
        self._given = list(topology.nodes)
        super().__init__(
            startup_nodes=[ClusterNode(host, port) for host, port in topology.nodes],
            # 0: a moved slot is noted, and no more. Otherwise connections that are in use are closed, now and then.
            reinitialize_steps=0,
            **options,
        )
        kind = Plain if topology.tls is None else Tls
        self.connection_kwargs["connection_class"] = kind  # of nodes that are found
        for node in self.startup_nodes:
            node.connection_class = kind

    async def initialize(
        self,
        additional_startup_nodes_info: list[tuple[str, int]] | None = None,
        last_failed_node_name: str | None = None,
    ) -> RedisCluster:
        """Find the nodes, when that is due."""
        try:
            # redis-py forgets the nodes of the URL for the addresses that they told; these may all change.
            return await super().initialize(additional_startup_nodes_info or self._given, last_failed_node_name)
        except exceptions.RedisClusterException as error:
            if isinstance(error.__cause__, exceptions.ConnectionError):
                raise error.__cause__ from error
            raise exceptions.ConnectionError(str(error)) from error

    def pubsub(self, *args: Any, **kwargs: Any) -> ClusterPubSub:
        """A subscription, through the node that has the first channel's slot."""
        return _Subscription(self, *args, **kwargs)


class _Subscription(ClusterPubSub):
    """A subscription that may be a client's first command, and that finds the cluster again after a failover."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        await self.cluster.initialize()
        try:
            return await super().execute_command(*args, **kwargs)
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            self.cluster._initialize = True
            raise
