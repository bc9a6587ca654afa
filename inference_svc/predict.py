"""Scoring a request as a use case: the model of a name, rows that it can take, a place in the queue, the answer.

Knows neither protobuf nor a transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from inference_svc.admission import USUAL, Terms
from inference_svc.batcher import Batcher
from inference_svc.lane import Work
from inference_svc.registry import LoadedModel, Registry, Target
from inference_svc.rows import Matrix, Path, check
from runtime.errors import ResourceExhaustedError
from runtime.validation import MAX_REQUEST_ID_CHARS, Violations

MAX_LABELS = 32
MAX_LABEL_CHARS = 256


class Submits(Protocol):
    """Scores rows, as `Batcher.submit` does."""

    def submit(
        self, loaded: LoadedModel, rows: Matrix, terms: Terms, finished: Callable[[Work], None], request_id: str = ""
    ) -> Work:
        """Let rows wait to be scored; `finished` is called with the work, later."""


class Predictor:
    """Scores requests with what the registry serves at the moment they arrive."""

    def __init__(self, registry: Registry, batcher: Batcher, max_rows: int, challengers: Submits | None = None) -> None:
        """`max_rows` is the most rows of one request; `challengers` scores with what is not in this process."""
        self._registry = registry
        self._batcher = batcher
        self._challengers: Submits = challengers or batcher
        self._max_rows = max_rows

    def resolve(self, name: str) -> Target:
        """The model that a request is scored by; see `Snapshot.resolve`."""
        return self._registry.current.resolve(name)

    def check_size(self, rows: int, field: str) -> None:
        """Check the number of rows. Raises ResourceExhaustedError (BATCH_TOO_LARGE)."""
        if rows > self._max_rows:
            raise ResourceExhaustedError(
                f"{field} has {rows} rows; at most {self._max_rows} are allowed: send it in parts",
                reason="BATCH_TOO_LARGE",
                field=field,
                metadata={"rows": str(rows), "limit": str(self._max_rows)},
            )

    def begin(self, target: Target, rows: Matrix, path: Path, terms: Terms = USUAL, request_id: str = "") -> Pending:
        """Let rows wait to be scored, all by the target's version.

        Raises what `rows.check` and `Batcher.submit` raise, and what `shadow.asks` does for a challenger.
        """
        check(rows, target.loaded, path)
        over: asyncio.Future[Work] = asyncio.get_running_loop().create_future()
        scorer = self._challengers if target.role == "challenger" else self._batcher
        return Pending(target, scorer.submit(target.loaded, rows, terms, over.set_result, request_id), over)


class Pending:
    """Rows that wait or are being scored."""

    __slots__ = ("_over", "target", "work")

    def __init__(self, target: Target, work: Work, over: asyncio.Future[Work]) -> None:
        self.target = target
        self.work = work
        self._over = over

    async def result(self) -> Work:
        """The work with all its values and its receipt. Cancelled, it gives its place in the queue free at once.

        Raises FailedPreconditionError (NON_FINITE_PREDICTION, MODEL_FAILED) for the first row that has no prediction,
        DeadlineExceededError when the deadline passed while it waited.
        """
        try:
            await self._over
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.work.error is not None:
            raise self.work.error
        return self.work

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.target.loaded.lane.cancel(self.work)


def check_call(request_id: str, metadata: Mapping[str, str] | None = None) -> None:
    """Check what a call carries beside its rows. Raises InvalidInputError with every fault."""
    if len(request_id) <= MAX_REQUEST_ID_CHARS and not metadata:
        return
    violations = Violations()
    violations.text("request_id", request_id, max_chars=MAX_REQUEST_ID_CHARS)
    labels = metadata or {}
    if len(labels) > MAX_LABELS:
        violations.add("metadata", f"has {len(labels)} entries; at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if len(key) > MAX_LABEL_CHARS:
            violations.add("metadata", f"has a key of {len(key)} characters; at most {MAX_LABEL_CHARS} are allowed")
        violations.text(f"metadata[{key[:MAX_LABEL_CHARS]}]", value, max_chars=MAX_LABEL_CHARS)
    violations.raise_if_any()
