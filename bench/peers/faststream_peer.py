"""FastStream on Redis Streams, at the same work: `python faststream_peer.py URL one|batch RECORDS BYTES`.

Run by its own environment (faststream.txt); imports nothing of quantmesh. `one` is the way of its tutorial: publish a
message, handle a message, publish its result. `batch` is the fastest way it offers: pipelines of 500, and a subscriber
that takes lists of 500 (of text: its batches hold no binary messages). Delivery is at least once: the group's
acknowledgement comes after the handler. Prints the rates as JSON.
"""

import asyncio
import json
import logging
import os
import sys
import time

import uvloop
from faststream.redis import RedisBroker, StreamSub

BATCH = 500


async def publish(broker: RedisBroker, payloads: list[str], stream: str) -> None:
    """Messages in one pipeline."""
    pipe = broker._connection.pipeline(transaction=False)
    for payload in payloads:
        await broker.publish(payload, stream=stream, pipeline=pipe)
    await pipe.execute()


async def main(url: str, way: str, records: int, size: int) -> dict[str, float]:
    """Publish, then consume, transform (a copy) and produce."""
    broker = RedisBroker(url, logger=logging.getLogger("peer"), log_level=logging.DEBUG)
    source, sink = f"peer.{way}.in", f"peer.{way}.out"
    payload, done, handled = os.urandom(size // 2).hex(), asyncio.Event(), 0

    if way == "one":

        @broker.subscriber(stream=StreamSub(source, group="g", consumer="c"))
        async def copy(message: str) -> None:
            nonlocal handled
            await broker.publish(message, stream=sink)
            handled += 1
            if handled == records:
                done.set()

    else:

        @broker.subscriber(stream=StreamSub(source, group="g", consumer="c", batch=True, max_records=BATCH))
        async def copy_all(messages: list[str]) -> None:
            nonlocal handled
            await publish(broker, messages, sink)
            handled += len(messages)
            if handled >= records:
                done.set()

    await broker.connect()
    started = time.perf_counter()
    if way == "one":
        for _ in range(records):
            await broker.publish(payload, stream=source)
    else:
        for start in range(0, records, BATCH):
            await publish(broker, [payload] * min(BATCH, records - start), source)
    published = time.perf_counter()
    # A group begins at the end of its stream unless it exists; this one is to read what is there.
    await broker._connection.xgroup_create(source, "g", id="0")
    begun = time.perf_counter()
    await broker.start()
    await done.wait()
    ended = time.perf_counter()
    came_out = await broker._connection.xlen(sink)
    await broker.stop()
    if came_out != records:
        raise SystemExit(f"{came_out} of {records} came out")
    return {"publish": records / (published - started), "process": records / (ended - begun)}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))))
