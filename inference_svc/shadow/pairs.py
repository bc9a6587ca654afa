"""A pair: what champion and challenger made of the same row, as `quantmesh.streams.v1.ShadowPair`."""

from __future__ import annotations

from typing import NamedTuple

from inference_svc.registry import LoadedModel
from inference_svc.shadow.frames import Rows
from inference_svc.signals import signal_id
from quantmesh.streams.v1 import shadow_pair_pb2
from runtime.times import set_us


class Slot(NamedTuple):
    """What rows are scored under: a champion and its challenger, at one generation of a deployment."""

    slot: int
    strategy: str
    generation: int
    champion_version: str
    champion_threshold: float
    challenger_version: str


def make_pair(
    slot: Slot, rows: Rows, row: int, challenger: LoadedModel, prediction: float, seconds: float
) -> shadow_pair_pb2.ShadowPair:
    """The pair of one row of `rows`; the challenger's prediction took `seconds`."""
    origin = rows.origins[row]
    identity = origin.request_id
    if origin.symbol:
        identity = signal_id(slot.strategy, origin.vector_hash, slot.champion_version, slot.generation)
    pair = shadow_pair_pb2.ShadowPair(
        strategy=slot.strategy,
        generation=slot.generation,
        request_id=identity,
        row=origin.row,
        champion=shadow_pair_pb2.ShadowScore(
            model_version=slot.champion_version,
            prediction=float(rows.predictions[row]),
            latency_us=rows.latency_us,
            batch_rows=rows.batch_rows,
        ),
        challenger=shadow_pair_pb2.ShadowScore(
            model_version=challenger.version, prediction=prediction, latency_us=seconds * 1e6, batch_rows=1
        ),
        champion_threshold=slot.champion_threshold,
        challenger_threshold=challenger.manifest.signal_threshold,
        vector_hash=origin.vector_hash,
        symbol=origin.symbol,
    )
    set_us(pair.scored_at, rows.scored_at_us)
    if origin.symbol:
        set_us(pair.as_of, origin.as_of_us)
    return pair
