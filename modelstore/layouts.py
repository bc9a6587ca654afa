"""Layouts of feature sets: which features a vector holds, in what order.

Whoever makes the vectors publishes them, so that a model whose columns stand in another order cannot be promoted: its
predictions would be wrong without a sign of it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from itertools import takewhile
from typing import cast

from modelstore import keys
from modelstore.manifest import Manifest
from runtime.errors import FailedPreconditionError
from runtime.redis_client import Client


class FeatureLayouts:
    """The layouts in Redis. Methods raise what redis-py raises when the server is away."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    async def publish(self, feature_set: str, feature_names: Sequence[str]) -> None:
        """Say what the vectors of a set hold."""
        await self._redis.hset(keys.LAYOUTS, feature_set, json.dumps(list(feature_names)))

    async def require(self, feature_set: str, feature_names: Sequence[str]) -> None:
        """Check a model's columns against the layout of its set. A set that nobody has published is not checked.

        Raises FailedPreconditionError (reason FEATURE_LAYOUT_MISMATCH).
        """
        stored = await cast(Awaitable[bytes | None], self._redis.hget(keys.LAYOUTS, feature_set))
        if stored is None:
            return
        layout = json.loads(stored)
        if list(feature_names) == layout:
            return
        same = takewhile(lambda pair: pair[0] == pair[1], zip(feature_names, layout, strict=False))
        column = sum(1 for _ in same)
        raise FailedPreconditionError(
            f"the model takes {len(feature_names)} features, set {feature_set!r} has {len(layout)}, and from column "
            f"{column} on they differ: the model needs {', '.join(layout)}, in this order",
            reason="FEATURE_LAYOUT_MISMATCH",
            field="version",
            metadata={"feature_set": feature_set, "column": str(column)},
        )


def check_columns(challenger: Manifest, champion: Manifest) -> None:
    """Check that a challenger takes the rows that its champion takes: the same set, the same columns in their order.

    Raises FailedPreconditionError (reason CHAMPION_COLUMNS_MISMATCH).
    """
    ours = (challenger.feature_set, challenger.feature_names)
    theirs = (champion.feature_set, champion.feature_names)
    if ours != theirs:
        raise FailedPreconditionError(
            f"a challenger is scored on the champion's rows: {champion.name!r} takes {len(theirs[1])} features of set "
            f"{theirs[0]!r}, {challenger.name!r} takes {len(ours[1])} of {ours[0]!r}, and they must be the same, in "
            "the same order",
            reason="CHAMPION_COLUMNS_MISMATCH",
            field="version",
            metadata={"feature_set": theirs[0]},
        )
