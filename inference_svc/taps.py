"""Where rows that champions have scored are handed on beside their answers: to the shadow, while there is a challenger.

Both are None otherwise, so that nobody pays for what nobody wants.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeAlias

from inference_svc.registry import LoadedModel
from inference_svc.rows import Matrix
from inference_svc.scoring import Scored
from inference_svc.vectors import Vector


class Part(Protocol):
    """Consecutive rows of one request in a call of a model."""

    @property
    def request_id(self) -> str:
        """Identity of the request; empty when it has none."""

    @property
    def first(self) -> int:
        """Place of the first of them in the request."""

    @property
    def count(self) -> int:
        """How many."""


class ScoredVector(Protocol):
    """A vector, and what the champions made of it."""

    @property
    def vector(self) -> Vector: ...

    @property
    def scored(self) -> Scored: ...


BatchTap: TypeAlias = Callable[[LoadedModel, Sequence[Part], Matrix, Matrix, Collection[int], float], None]
"""Takes a call of a model: its parts, rows [n, columns], predictions [n], the rows without one, and its seconds."""

VectorTap: TypeAlias = Callable[[Sequence[ScoredVector], float], None]
"""Takes vectors of the stream, and the mean seconds of a prediction."""


class Taps:
    """The two taps. All that is taken stays unchanged; nothing is taken before its answer is on its way."""

    __slots__ = ("batch", "vectors")

    def __init__(self) -> None:
        self.batch: BatchTap | None = None
        self.vectors: VectorTap | None = None
