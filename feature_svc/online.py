"""The online store: vectors as of an instant, from the state that the pipeline commits."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import cast

from feature_svc.feature_sets import FeatureSets
from feature_svc.pit import MAX_SYMBOL_CHARS
from feature_svc.symbol_state import STATE, SymbolState
from feature_svc.vector import FeatureVector, VectorRules
from runtime.errors import InvalidInputError
from runtime.redis_client import Client
from runtime.times import now_us
from runtime.validation import Violations
from streams import Catalog, keys

MAX_SYMBOLS = 1_000


class OnlineStore:
    """Answers what was known of symbols, by the same rules as the stream's vectors."""

    def __init__(self, redis: Client, catalog: Catalog, sets: FeatureSets, *, skew_us: int) -> None:
        self._redis = redis
        self._catalog = catalog
        self._sets = sets
        self._rules = {feature_set.name: VectorRules(feature_set) for feature_set in sets}
        self._skew_us = skew_us

    async def vectors(
        self, symbols: Sequence[str], feature_set: str, as_of_us: int | None = None
    ) -> list[FeatureVector]:
        """One vector a symbol, in the order asked for; `as_of_us` None is now.

        Raises NotFoundError (UNKNOWN_FEATURE_SET), InvalidInputError, and what redis-py raises when the
        server is away.
        """
        self._sets.get(feature_set)
        as_of_us = self._checked(symbols, as_of_us)
        rules = self._rules[feature_set]
        states = await self._states(symbols)
        return [rules.vector(symbol, states[symbol].histories, as_of_us) for symbol in symbols]

    def _checked(self, symbols: Sequence[str], as_of_us: int | None) -> int:
        violations = Violations()
        if not 1 <= len(symbols) <= MAX_SYMBOLS:
            violations.add("symbols", f"has {len(symbols)} entries; 1 to {MAX_SYMBOLS} are allowed")
        elif len(set(symbols)) < len(symbols):
            violations.add("symbols", "has an entry twice; ask for each symbol once")
        for number, symbol in enumerate(symbols[:MAX_SYMBOLS]):
            violations.text(f"symbols[{number}]", symbol, max_chars=MAX_SYMBOL_CHARS, required=True)
        violations.raise_if_any()
        now = now_us()
        if as_of_us is not None and as_of_us > now + self._skew_us:
            raise InvalidInputError.of_field(
                "as_of",
                f"lies {as_of_us - now} us ahead of the clock; at most {self._skew_us} us are allowed",
                reason="FROM_THE_FUTURE",
            )
        return now if as_of_us is None else as_of_us

    async def _states(self, symbols: Sequence[str]) -> dict[str, SymbolState]:
        of_partition: dict[int, list[str]] = defaultdict(list)
        for symbol in symbols:
            of_partition[self._catalog.partition_of(symbol)].append(symbol)
        answers = await asyncio.gather(
            *(self._redis.hmget(keys.state(STATE, partition), asked) for partition, asked in of_partition.items())
        )
        found: dict[str, SymbolState] = {}
        for asked, answer in zip(of_partition.values(), answers, strict=True):
            for symbol, data in zip(asked, cast("list[bytes | None]", answer), strict=True):
                found[symbol] = SymbolState() if data is None else SymbolState.decode(data)
        return found
