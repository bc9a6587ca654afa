"""`quantmesh streams`, run as a user runs it, on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest

from quantmesh.streams.v1.signal_pb2 import Signal
from runtime.ports import free_port
from runtime.redis_client import Client
from runtime.times import from_us
from streams import Outputs, OutRecord, Poison, Processor, Producer, Record, keys, load_catalog
from tests.waiting import until

CATALOG = load_catalog(partitions=4)
STREAM, GROUP = "signals.momentum", "execution_service"
SYMBOLS = ("AAPL", "MSFT", "NVDA", "AMZN", "META", "TSLA")


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs `quantmesh streams` with an environment of its own."""

    def __init__(self, home: Path, **variables: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUANTMESH_")}
        self.environment = {**kept, "QUANTMESH_HOME": str(home), "COLUMNS": "200", **variables}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from runtime.cli import main; main()",
            "streams",
            *arguments,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str) -> Said:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())


@pytest.fixture
def streams(tmp_path: Path, redis: Client, redis_url: str) -> Command:
    return Command(tmp_path, QUANTMESH_REDIS_URL=redis_url)


def signal(n: int) -> OutRecord:
    symbol = SYMBOLS[n % len(SYMBOLS)]
    message = Signal(signal_id=f"s{n}", strategy="momentum", symbol=symbol, event_time=from_us(n))
    return OutRecord(STREAM, symbol, message.SerializeToString())


async def publish(redis: Client, count: int, first: int = 0) -> None:
    await Producer(redis, CATALOG).send_many([signal(n) for n in range(first, first + count)])


@asynccontextmanager
async def refusing(redis: Client, member: str = "m1") -> AsyncIterator[None]:
    """A member of the stream's group that gives up on every record."""

    async def refuse(partition: int, records: Sequence[Record]) -> Outputs:
        return Outputs(dead=[Poison(r, "NO_LIMIT", "no limit is set") for r in records])

    processor = Processor(redis, CATALOG, STREAM, refuse, member=member)
    task = asyncio.create_task(processor.run())
    try:
        yield
    finally:
        processor.stop()
        await task


async def letters(redis: Client) -> int:
    return sum([await redis.xlen(keys.dead_letters(STREAM, partition)) for partition in range(4)])


async def bury(redis: Client, count: int) -> None:
    await publish(redis, count)

    async def buried() -> bool:
        return await letters(redis) == count

    async with refusing(redis):
        await until(buried)


async def test_every_command_has_help_with_examples(streams: Command) -> None:
    names = ("ls", "describe", "tail", "lag", "groups show", "groups drop", "rebalance", "verify")
    letters = ("dlq list", "dlq show", "dlq replay", "dlq drop")
    said = await asyncio.gather(*(streams(*name.split(), "--help") for name in (*names, *letters)))
    for name, answer in zip((*names, *letters), said, strict=True):
        assert answer.code == 0, name
        example = f"$ quantmesh streams {name}".replace(" show", "" if name.startswith("groups") else " show")
        assert example in answer.out, name


async def test_ls_and_describe_count_what_is_there(streams: Command, redis: Client) -> None:
    await publish(redis, 12)
    rows = {row["name"]: row for row in (await streams("ls", "--json")).json["streams"]}
    assert set(rows) == {*CATALOG.streams, STREAM} - {"signals.{strategy}"}
    assert (rows[STREAM]["records"], rows[STREAM]["lag_records"], rows["fills"]["records"]) == (12, 12, 0)
    assert rows[STREAM]["lag_ms"] > 0
    described = (await streams("describe", STREAM, "--json")).json
    assert described["definition"]["retention"] == {"policy": "committed", "max_records": None, "keep_hours": 168}
    assert sum(partition["records"] for partition in described["partitions"]) == 12
    for arguments in (("ls",), ("describe", STREAM)):
        said = await streams(*arguments)
        assert said.code == 0
        assert STREAM in said.out


async def test_a_template_without_streams_stands_for_itself(streams: Command) -> None:
    names = [row["name"] for row in (await streams("ls", "--json")).json["streams"]]
    assert sorted(names) == sorted(CATALOG.streams)


async def test_tail_decodes_and_merges_the_partitions(streams: Command, redis: Client) -> None:
    for n in range(15):  # ids of one millisecond would not tell which partition's came first
        await publish(redis, 1, first=n)
        now = await redis.time()
        await until(lambda now=now: _is_later(redis, now))  # type: ignore[misc]
    newest = [json.loads(line) for line in (await streams("tail", STREAM, "--json")).out.splitlines()]
    assert [line["payload"]["signal_id"] for line in newest] == [f"s{n}" for n in range(5, 15)]
    assert newest[0]["partition"] == CATALOG.partition_of(newest[0]["payload"]["symbol"])
    said = await streams("tail", STREAM, "--from-beginning", "--json")
    assert [json.loads(line)["payload"]["signal_id"] for line in said.out.splitlines()] == [f"s{n}" for n in range(15)]
    said = await streams("tail", STREAM, "--from-beginning", "-n", "2")
    assert [line.split('"signal_id": ')[1][:4] for line in said.out.splitlines()] == ['"s0"', '"s1"']
    one = await streams("tail", STREAM, "--partition", "0", "-n", "100", "--json")
    assert {json.loads(line)["partition"] for line in one.out.splitlines()} == {0}
    assert (await streams("tail", STREAM, "--partition", "4")).code == 1


async def _is_later(redis: Client, than: tuple[int, int]) -> bool:
    seconds, microseconds = await redis.time()
    return (seconds - than[0]) * 1000 + (microseconds - than[1]) / 1000 > 1


async def test_tail_follows_until_it_is_interrupted(streams: Command, redis: Client) -> None:
    for n in range(3):  # on a cluster only the clock says which is the newest
        await publish(redis, 1, first=n)
        published_ms = time.time_ns() // 1_000_000
        await until(lambda: time.time_ns() // 1_000_000 > published_ms)  # noqa: B023
    process = await streams.start("tail", STREAM, "-n", "1", "--follow", "--json")
    assert process.stdout is not None
    try:
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 30))["payload"]["signal_id"] == "s2"
        for n in range(3, 6):
            await publish(redis, 1, first=n)
            assert json.loads(await asyncio.wait_for(process.stdout.readline(), 30))["payload"]["signal_id"] == f"s{n}"
        process.send_signal(SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_lag_and_groups_show_who_is_behind_and_who_owns_what(streams: Command, redis: Client) -> None:
    await publish(redis, 8)
    (row,) = (await streams("lag", STREAM, "--json")).json["groups"]
    assert (row["group"], row["records"], row["over_limit"]) == (GROUP, 8, True)
    assert GROUP in (await streams("lag")).out

    async def owned() -> bool:
        owners = [await redis.hget(keys.group(STREAM, GROUP, p), "owner") for p in range(4)]
        return owners == [b"m1"] * 4

    async with refusing(redis):
        await until(owned)
        (group,) = (await streams("groups", STREAM, "--json")).json["groups"]
        assert group["members"] == ["m1"]
        assert [part["owner"] for part in group["partitions"]] == ["m1"] * 4
        refused = await streams("groups", "drop", STREAM, GROUP, "--yes", "--json")
        assert (refused.code, refused.json["error"]["reason"]) == (1, "GROUP_ALIVE")
    assert "members: none" in (await streams("groups", STREAM)).out


async def test_a_group_is_dropped_only_when_that_is_confirmed(streams: Command, redis: Client) -> None:
    await publish(redis, 4)
    assert (await streams("groups", "drop", STREAM, GROUP)).code == 1
    assert not (await streams("lag", STREAM, "--json")).json["groups"][0]["dropped"]
    assert (await streams("groups", "drop", STREAM, GROUP, "--yes")).code == 0
    assert (await streams("lag", STREAM, "--json")).json["groups"][0]["dropped"]


async def test_rebalance_says_when_nobody_is_there(streams: Command, redis: Client) -> None:
    said = await streams("rebalance", STREAM, "--json")
    assert (said.code, said.json["error"]["reason"]) == (1, "GROUP_DEAD")


async def test_verify_ends_with_1_when_something_is_wrong(streams: Command, redis: Client) -> None:
    await publish(redis, 20)
    sound = await streams("verify", STREAM, "--json")
    assert (sound.code, sound.json["sound"]) == (0, True)
    again = signal(3)
    await redis.xadd(keys.entries(STREAM, CATALOG.partition_of(again.key)), {keys.PAYLOAD: again.payload})
    said = await streams("verify", STREAM, "--json")
    found = {fault["kind"] for part in said.json["partitions"] for fault in part["faults"]}
    assert said.code == 1
    assert {"FOREIGN", "DUPLICATE"} <= found
    assert "FOREIGN" in (await streams("verify", STREAM)).out


async def test_dead_letters_are_listed_shown_replayed_and_dropped(streams: Command, redis: Client) -> None:
    await bury(redis, 6)
    listed = (await streams("dlq", "list", "--json")).json["letters"]
    assert {(row["stream"], row["reason"], row["attempts"]) for row in listed} == {(STREAM, "NO_LIMIT", 1)}
    first = listed[0]["letter"]
    shown = (await streams("dlq", "show", STREAM, first, "--json")).json
    assert shown["error"] == "no limit is set"
    assert shown["payload"]["signal_id"].startswith("s")
    cut = (await streams("dlq", "list", STREAM, "-n", "2", "--json")).json
    assert (len(cut["letters"]), cut["more"]) == (2, True)

    replayed = await streams("dlq", "replay", STREAM, first, "--json")
    assert (replayed.code, replayed.json["replayed"]) == (0, 1)
    again = await streams("dlq", "replay", STREAM, first, "--json")
    assert (again.code, again.json["error"]["reason"]) == (1, "UNKNOWN_LETTER")
    assert (await streams("dlq", "drop", STREAM, "--reason", "NO_LIMIT")).code == 1  # not confirmed
    assert await letters(redis) == 5
    assert (await streams("dlq", "drop", STREAM, "--reason", "NO_LIMIT", "--yes", "--json")).json["dropped"] == 5
    assert "none" in (await streams("dlq", "list")).out


@pytest.mark.parametrize("command", ["replay", "drop"])
async def test_all_letters_are_meant_only_when_that_is_said(streams: Command, redis: Client, command: str) -> None:
    assert (await streams("dlq", command, STREAM)).code == 2
    assert (await streams("dlq", command, STREAM, "--all", "--reason", "X")).code == 2
    assert (await streams("dlq", command, STREAM, "not-an-id", *(["--yes"] if command == "drop" else []))).code == 1


async def test_a_stream_that_is_none_is_refused_with_those_that_are(streams: Command) -> None:
    for arguments in (["describe"], ["tail"], ["lag"], ["groups"], ["rebalance"], ["verify"], ["dlq", "list"]):
        said = await streams(*arguments, "nonsense")
        assert (said.code, "features.raw" in said.err) == (1, True), arguments
        assert "Traceback" not in said.err


async def test_without_redis_it_says_so_in_one_line(tmp_path: Path) -> None:
    said = await Command(tmp_path)("ls")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "quantmesh up" in said.err
    url = f"redis://:secret@127.0.0.1:{free_port('127.0.0.1')}/0"
    said = await Command(tmp_path, QUANTMESH_REDIS_URL=url)("lag", "--json")
    assert (said.code, said.json["error"]["reason"]) == (1, "REDIS_UNAVAILABLE")
    assert "secret" not in said.out + said.err


async def test_another_number_of_partitions_is_a_wrong_setting(streams: Command, redis: Client) -> None:
    await publish(redis, 1)
    streams.environment["QUANTMESH_PARTITIONS"] = "8"
    said = await streams("ls")
    assert (said.code, "QUANTMESH_PARTITIONS to 4" in said.err) == (78, True)


async def test_a_catalog_of_ones_own_is_read(streams: Command, redis: Client, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "stream_backend: redis_streams\nstream_max_lag_ms: 100\nconsumer_group: mine\n"
        "streams:\n  stock.deployments:\n    payload: quantmesh.mlops.v1.Deployment\n    key: strategy\n"
        "    delivery: exactly_once\n    retention: {policy: committed, keep_hours: 1}\n"
    )
    said = await streams("--catalog", str(path), "ls", "--json")
    assert [row["name"] for row in said.json["streams"]] == ["stock.deployments"]
    path.write_text("streams: 1\n")
    assert (await streams("--catalog", str(path), "ls")).code == 78
