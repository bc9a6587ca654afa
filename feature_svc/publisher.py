"""Publishing raw features for a caller: all of them or none, each once."""

from __future__ import annotations

from collections.abc import Sequence

from feature_svc import convert
from feature_svc.feature_sets import FeatureSets
from feature_svc.pit import RawFeature, check_print
from feature_svc.pit_pipeline import RAW
from runtime.errors import ResourceExhaustedError
from runtime.times import now_us
from runtime.validation import Violations
from streams import OutRecord, Producer, SendResult

MAX_RECORDS = 10_000
MAX_EVENT_ID_CHARS = 128


class Publisher:
    """Checks raw features by the point-in-time rules and appends them to `features.raw`."""

    def __init__(self, producer: Producer, sets: FeatureSets, *, skew_us: int) -> None:
        self._producer = producer
        self._known_symbols = sets.symbols
        self._known_names = sets.feature_names
        self._skew_us = skew_us

    async def publish(self, raws: Sequence[RawFeature], traceparent: str = "") -> SendResult:
        """Append records, each once by its event id; nothing is written when one of them is wrong.

        Raises ResourceExhaustedError (TOO_MANY_RECORDS), InvalidInputError with every field that is wrong and the
        reason of the first, and what redis-py raises when the server is away: call again with the same event ids.
        """
        self._check(raws)
        records = [OutRecord(RAW, raw.symbol, convert.raw_payload(raw), traceparent, raw.event_id) for raw in raws]
        return await self._producer.send_many(records)

    def _check(self, raws: Sequence[RawFeature]) -> None:
        if len(raws) > MAX_RECORDS:
            raise ResourceExhaustedError(
                f"features: {len(raws)} records; at most {MAX_RECORDS} are taken in one call: send several",
                reason="TOO_MANY_RECORDS",
                field="features",
                metadata={"limit": str(MAX_RECORDS)},
            )
        violations = Violations()
        first_reason = "INVALID_FIELD"
        if not raws:
            violations.add("features", "needs at least one record")
        now = now_us()
        for number, raw in enumerate(raws):
            violation = check_print(raw, self._known_symbols, self._known_names, now, self._skew_us)
            if violation is not None:
                if not violations:
                    first_reason = violation.reason
                violations.add(f"features[{number}].{violation.field}", violation.description)
            violations.text(f"features[{number}].event_id", raw.event_id, max_chars=MAX_EVENT_ID_CHARS, required=True)
        violations.raise_if_any(first_reason)
