"""The watch over the lag, on a real server that also goes away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from runtime.embedded_redis import EmbeddedRedis
from runtime.redis_client import Client, connect
from streams import Outputs, OutRecord, Processor, Producer, Record, load_catalog
from streams.operations import Lag, LagMonitor
from streams.operations.groups import drop_group
from tests.waiting import until

CATALOG = load_catalog(partitions=2).model_copy(update={"stream_max_lag_ms": 50.0})
RAW = CATALOG.stream("features.raw")
PAIR = (RAW.name, RAW.group)


def metric(name: str, pair: tuple[str, str] = PAIR) -> float:
    value = REGISTRY.get_sample_value(f"quantmesh_stream_{name}", {"stream": pair[0], "group": pair[1]})
    return math.nan if value is None else value


@asynccontextmanager
async def running(work: LagMonitor | Processor) -> AsyncIterator[None]:
    task = asyncio.create_task(work.run())
    try:
        yield
    finally:
        work.stop()
        await task


async def publish(redis: Client, count: int) -> None:
    await Producer(redis, CATALOG).send_many([OutRecord(RAW.name, f"K{n}", b"x") for n in range(count)])


async def drop(partition: int, records: Sequence[Record]) -> Outputs:
    return Outputs()


async def test_an_episode_is_told_once_and_its_end_once(redis: Client) -> None:
    told: list[tuple[str, Lag]] = []

    async def alert(lag: Lag) -> None:
        told.append(("alert", lag))

    monitor = LagMonitor(
        redis, CATALOG, [PAIR], interval_s=0.02, on_alert=alert, on_resolved=lambda lag: told.append(("over", lag))
    )
    counted = metric("lag_alerts_total")
    async with running(monitor):
        for _ in range(2):
            await publish(redis, 30)
            await until(lambda: told and told[-1][0] == "alert")
            assert (metric("lag_records"), metric("lag_ms") > 50) == (30, True)
            async with running(Processor(redis, CATALOG, RAW.name, drop)):
                await until(lambda: told[-1][0] == "over")
            assert (metric("lag_records"), metric("lag_ms")) == (0, 0)
    assert [kind for kind, _ in told] == ["alert", "over"] * 2
    assert told[0][1].ms > 50
    assert metric("lag_alerts_total") - (0 if math.isnan(counted) else counted) == 2


async def test_without_hooks_it_is_logged_with_stream_group_and_lag(redis: Client) -> None:
    await publish(redis, 5)
    with capture_logs() as logs:
        async with running(LagMonitor(redis, CATALOG, [PAIR], interval_s=0.02)):
            await until(lambda: any(line["event"] == "a group is behind" for line in logs))
            async with running(Processor(redis, CATALOG, RAW.name, drop)):
                await until(lambda: any(line["event"] == "a group has caught up" for line in logs))
    (line,) = [line for line in logs if line["event"] == "a group is behind"]
    assert (line["stream"], line["group"], line["lag_records"], line["limit_ms"]) == (*PAIR, 5, 50)
    assert line["lag_ms"] > 50


async def test_one_look_over_the_limit_is_no_episode(redis: Client) -> None:
    told: list[Lag] = []
    monitor = LagMonitor(redis, CATALOG, [PAIR], on_alert=told.append, on_resolved=told.append)
    for lag_ms in (51, 50, 51, 0):
        await monitor._look(Lag(*PAIR, records=1, ms=lag_ms, pending=0, dropped=False))
    assert told == []


async def test_a_dropped_group_raises_no_alert_and_ends_its_episode(redis: Client) -> None:
    told: list[Lag] = []
    monitor = LagMonitor(redis, CATALOG, [PAIR], interval_s=0.02, on_resolved=told.append, on_alert=lambda _: None)
    await publish(redis, 5)
    alerts = metric("lag_alerts_total")
    async with running(monitor):
        await until(lambda: metric("lag_alerts_total") > (0 if math.isnan(alerts) else alerts))
        await drop_group(redis, RAW, RAW.group, 2)
        await until(lambda: bool(told))
    assert told[0].dropped


async def test_a_hook_that_fails_is_logged_and_the_watch_goes_on(redis: Client) -> None:
    def fail(lag: Lag) -> None:
        raise ValueError("the pager is broken")

    await publish(redis, 5)
    with capture_logs() as logs:
        async with running(LagMonitor(redis, CATALOG, [PAIR], interval_s=0.02, on_alert=fail)):
            await until(lambda: any("hook" in line["event"] for line in logs))
            async with running(Processor(redis, CATALOG, RAW.name, drop)):
                await until(lambda: metric("lag_ms") == 0)


async def test_it_outlives_redis_and_says_meanwhile_that_it_does_not_know(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        async with connect(server.url) as redis:
            await publish(redis, 5)
            with capture_logs() as logs:
                async with running(LagMonitor(redis, CATALOG, [PAIR], interval_s=0.02)):
                    await until(lambda: metric("lag_records") == 5)
                    server.stop()
                    await until(lambda: math.isnan(metric("lag_records")) and math.isnan(metric("lag_ms")))
                    server.start()
                    await until(lambda: metric("lag_records") == 5)
    assert any(line["event"].startswith("the lag is not known") for line in logs)
