"""What all partitions of a replay share."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference_svc.registry import LoadedModel
from inference_svc.replay.history import History
from inference_svc.replay.models import Models
from inference_svc.replay.report import Report
from inference_svc.replay.sinks import Sink
from streams import Catalog


@dataclass(slots=True)
class Task:
    """A replay under way."""

    catalog: Catalog
    strategies: list[str]
    history: History
    models: Models
    report: Report
    sink: Sink
    candidate: LoadedModel | None = None
    """The model that was asked for."""
    sets: dict[str, set[str]] = field(default_factory=dict)
    """Feature sets that each strategy's models were trained on, as far as they could be loaded."""
    sets_seen: set[str] = field(default_factory=set)
    """Feature sets of the range's vectors."""

    @property
    def candidate_digest(self) -> str:
        """Digest of the model that was asked for."""
        return self.candidate.version if self.candidate is not None else ""
