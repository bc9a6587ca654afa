import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from quantmesh.streams.v1.market_data_pb2 import TradeTick
from runtime.redis_client import connect
from streams import Outputs, OutRecord, Processor, Producer, Record, load_catalog

CATALOG = load_catalog(partitions=4, path=Path(__file__).with_name("streams.yaml"))


async def blocks(partition: int, records: Sequence[Record]) -> Outputs:
    trades = [TradeTick.FromString(record.payload) for record in records]
    return Outputs([OutRecord("blocks", t.symbol, t.SerializeToString()) for t in trades if t.size >= 900])


async def main() -> None:
    redis = connect(os.environ["QUANTMESH_REDIS_URL"])
    async with Producer(redis, CATALOG) as producer:
        for n in range(1000):
            trade = TradeTick(symbol=f"S{n % 7}", price=100.0, size=n, trade_id=f"t{n}")
            await producer.post(OutRecord("trades", trade.symbol, trade.SerializeToString(), event_id=trade.trade_id))
    processor = Processor(redis, CATALOG, "trades", blocks)
    asyncio.get_running_loop().call_later(2, processor.stop)
    await processor.run()
    await redis.aclose()


asyncio.run(main())
