"""Clients' clocks that jump. Leases, retention and event ids go by the server's clock; the rest must bear it."""

from __future__ import annotations

import time

import pytest
from redis.asyncio import Redis

from streams import OutRecord, Producer, SendResult, load_catalog

CATALOG = load_catalog(4)
JUMPS_S = [-90_000.0, -10_800.0, -3_600.0, 3_600.0, 10_800.0, 90_000.0]


def skew(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(seconds * 1e9))


@pytest.mark.parametrize("jump_s", JUMPS_S)
async def test_an_event_id_is_accepted_once_though_the_clock_jumped(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    record = OutRecord("features.raw", "A", b"x", event_id="e")
    assert await Producer(redis, CATALOG).send_many([record]) == SendResult(accepted=1)
    skew(monkeypatch, jump_s)
    assert await Producer(redis, CATALOG).send_many([record]) == SendResult(duplicates=1)


@pytest.mark.parametrize("jump_s", JUMPS_S)
async def test_a_producer_that_starts_again_takes_over_though_the_clock_jumped(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    await Producer(redis, CATALOG, "desk").send_many([OutRecord("features.raw", "A", b"1")])
    skew(monkeypatch, jump_s)
    assert await Producer(redis, CATALOG, "desk").send_many([OutRecord("features.raw", "A", b"2")]) == SendResult(1)


async def test_a_clock_that_jumps_while_a_producer_sends_changes_nothing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer(redis, CATALOG)
    for number, jump_s in enumerate(JUMPS_S):
        skew(monkeypatch, jump_s)
        sent = await producer.send_many([OutRecord("features.raw", "A", b"%d" % number)])
        assert sent == SendResult(accepted=1)
