"""Pairs that wait to be written: bounded, and each is written or counted as lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from inference_svc.shadow import recorder as module
from inference_svc.shadow.counts import Counts
from inference_svc.shadow.recorder import Recorder
from streams import OutRecord, load_catalog


class Producer:
    def __init__(self) -> None:
        self.sent: list[OutRecord] = []
        self.away = False

    async def send_many(self, records: Sequence[OutRecord]) -> None:
        if self.away:
            raise ConnectionError("Redis is away")
        self.sent += records


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    producer = Producer()
    monkeypatch.setattr(module, "Producer", lambda *_: producer)
    return producer


async def test_each_pair_is_written_or_lost(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 3)
    counts = Counts()
    recorder = Recorder(cast(Any, None), load_catalog(4), counts)
    for number in range(5):
        recorder.record("momentum", f"r{number}", b"pair")
    await recorder.flush()
    assert [(each.stream, each.key, each.payload) for each in producer.sent] == [
        ("shadow.momentum", f"r{number}", b"pair") for number in range(3)
    ]
    counted = counts.take()["momentum"]
    assert (counted["written"], counted["lost"]) == (3, 2)

    producer.away = True
    recorder.record("momentum", "r", b"pair")
    with pytest.raises(ConnectionError):
        await recorder.flush()
    counted = counts.take()["momentum"]
    assert (counted["written"], counted["lost"]) == (0, 1)
