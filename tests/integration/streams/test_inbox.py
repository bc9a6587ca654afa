"""The inbox on a real server: once, one at a time, and again after a failure or a death."""

from __future__ import annotations

import asyncio
import sys

import pytest

from runtime.errors import UnavailableError
from runtime.redis_client import Client
from streams.inbox import Inbox
from tests.waiting import until


def make(redis: Client, lease_ms: int = 800) -> Inbox:
    return Inbox(redis, "payments", keep_hours=1, lease_ms=lease_ms)


async def test_an_event_is_done_once(redis: Client) -> None:
    seen = []
    for _ in range(3):
        async with make(redis).once("e1") as first:
            seen.append(first)
    async with make(redis).once("e2") as first:
        seen.append(first)
    async with Inbox(redis, "another", keep_hours=1).once("e1") as first:
        seen.append(first)
    assert seen == [True, False, False, True, True]


async def test_an_event_is_remembered_for_its_time_only(redis: Client) -> None:
    inbox = Inbox(redis, "payments", keep_hours=0.2 / 3600)
    async with inbox.once("e1"):
        pass

    async def is_first() -> bool:
        async with inbox.once("e1") as first:
            return first

    assert not await is_first()
    await until(is_first)


async def test_a_block_that_raises_is_not_done(redis: Client) -> None:
    with pytest.raises(KeyError):
        async with make(redis, lease_ms=60_000).once("e1"):
            raise KeyError("the bank said no")
    async with asyncio.timeout(1):  # the lease was given back
        async with make(redis).once("e1") as first:
            assert first


async def test_two_callers_take_turns_and_the_second_finds_it_done(redis: Client) -> None:
    inside, most, done = 0, 0, []

    async def call() -> None:
        nonlocal inside, most
        async with make(redis).once("e1") as first:
            if first:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(2.0)  # longer than the lease, which must be renewed
                inside -= 1
            done.append(first)

    await asyncio.gather(*(call() for _ in range(5)))
    assert most == 1
    assert sorted(done) == [False] * 4 + [True]


async def test_a_block_whose_lease_is_lost_is_cancelled(redis: Client) -> None:
    async def work() -> None:
        async with make(redis).once("e1"):
            await redis.set("inbox:payments:e1", "another")
            await asyncio.sleep(30)

    with pytest.raises(UnavailableError, match="e1") as error:
        await work()
    assert error.value.reason == "INBOX_LEASE_LOST"
    assert await redis.get("inbox:payments:e1") == b"another", "only one's own lease is given back"


async def test_a_block_that_cannot_renew_ends_before_another_may_begin(redis: Client) -> None:
    clock = asyncio.get_running_loop().time
    entered = left = 0.0

    async def work() -> None:
        nonlocal entered, left
        async with make(redis).once("e1"):
            await redis.client_pause(1_200, all=False)  # writes wait, and so do the scripts that may write
            entered = clock()
            try:
                await asyncio.sleep(30)
            finally:
                left = clock()

    with pytest.raises(UnavailableError):
        await work()
    assert left - entered < 1.0


async def test_a_timeout_of_ones_own_is_not_mistaken(redis: Client) -> None:
    with pytest.raises(TimeoutError):
        async with make(redis, lease_ms=60_000).once("e1"):
            raise TimeoutError("the bank is slow")


_DIES = """
import asyncio, sys
from runtime.redis_client import connect
from streams.inbox import Inbox

async def main():
    async with Inbox(connect(sys.argv[1]), "payments", 1, lease_ms=800).once("e1") as first:
        print(first, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_member_killed_in_between_leaves_it_to_another(redis: Client, redis_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DIES, redis_url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"True\n"
    waiting = asyncio.create_task(_first(redis))
    await asyncio.sleep(1.2)  # more than a lease: it is renewed
    assert not waiting.done()
    process.kill()
    await process.wait()
    async with asyncio.timeout(5):
        assert await waiting


async def _first(redis: Client) -> bool:
    async with make(redis).once("e1") as first:
        return first
