"""The shadow process: reads rows, lets challengers score them, has the pairs written, and reports now and then."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from redis.exceptions import RedisError

from inference_svc.loader import Loader
from inference_svc.settings import InferenceSettings
from inference_svc.shadow import frames
from inference_svc.shadow.asks import said
from inference_svc.shadow.budget import Budget
from inference_svc.shadow.challenger import Challenger
from inference_svc.shadow.counts import Counts
from inference_svc.shadow.frames import Kind, Reader
from inference_svc.shadow.pairs import Slot
from inference_svc.shadow.recorder import Recorder
from modelstore.artifacts import ArtifactStore
from runtime import logs
from runtime.errors import QuantmeshError, UnavailableError
from runtime.process import ended, required_redis_url
from runtime.redis_client import connect
from streams import load_catalog

REPORT_S = 0.25

_LAST_ROWS_S = 1.0
"""When the replica has closed the socket: what waits is scored, for so long."""


class ShadowProcess(asyncio.Protocol):
    """The process, as the protocol of its socket. `over` is set when the replica has closed it."""

    def __init__(self, loader: Loader, recorder: Recorder, counts: Counts, budget: Budget) -> None:
        self._loader = loader
        self._recorder = recorder
        self._counts = counts
        self._budget = budget
        self._reader = Reader()
        self._slots: dict[int, Slot] = {}
        self._challengers: dict[str, tuple[Challenger, asyncio.Task[None]]] = {}
        self._transport: asyncio.Transport | None = None
        self.over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for kind, body in self._reader.feed(data):
            if kind is Kind.ROWS:
                self._score(frames.read_rows(body))
            elif kind is Kind.ASK:
                self._ask(frames.read_ask(body))
            else:
                self._assign([Slot(**each) for each in frames.read_note(body)["assign"]])

    def eof_received(self) -> bool:
        self.over.set()
        return True  # what is left is still told

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What never ends by itself."""
        return [task for _, task in self._challengers.values()]

    async def close(self) -> None:
        """Let the challengers score what waits, for a moment, and end them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ROWS_S):
                await asyncio.gather(*(challenger.idle.wait() for challenger, _ in self._challengers.values()))
        await ended(*self.tasks)

    def report(self) -> None:
        """Tell the replica what was counted since, and that this process lives."""
        self.tell(frames.note({"report": self._counts.take()}))

    def tell(self, frame: bytes) -> None:
        """Send a frame to the replica."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def _assign(self, slots: list[Slot]) -> None:
        self._slots |= {slot.slot: slot for slot in slots}  # rows of earlier ones may still be on their way
        wanted = {slot.challenger_version for slot in slots}
        for version in self._challengers.keys() - wanted:
            challenger, task = self._challengers.pop(version)
            challenger.close()
            task.cancel()
        for version in wanted - self._challengers.keys():
            challenger = Challenger(version, self._loader, self._recorder, self._counts, self._budget, self.tell)
            self._challengers[version] = challenger, asyncio.create_task(challenger.run())

    def _score(self, rows: frames.Rows) -> None:
        slot = self._slots[rows.slot]
        found = self._challengers.get(slot.challenger_version)
        if found is None:
            self._counts.of(slot.strategy).drop("no_model", len(rows.values))
        else:
            found[0].score(slot, rows)

    def _ask(self, ask: frames.Ask) -> None:
        found = self._challengers.get(ask.version)
        if found is None:
            error = UnavailableError("no such challenger", reason="CHALLENGER_NOT_READY")
            self.tell(frames.note({"refused": ask.number, "error": said(error)}))
        else:
            found[0].ask(ask)


def run(settings_json: str, sock: socket.socket) -> int:
    """Run until the replica closes the socket; returns the exit code."""
    # One row a call, one thread: what a challenger takes of the machine is what a row needs.
    settings = InferenceSettings.model_validate_json(settings_json).model_copy(
        update={"batch_size": 1, "intra_op_threads": 1, "gpu_enabled": False}
    )
    logs.configure("inference_svc.shadow", settings)
    asyncio.run(_serve(settings, sock))
    return 0


async def _serve(settings: InferenceSettings, sock: socket.socket) -> None:
    counts = Counts()
    async with connect(required_redis_url(settings, "inference_svc")) as redis:
        recorder = Recorder(redis, load_catalog(settings.partitions), counts)
        loader = Loader(ArtifactStore(settings.home / "models"), settings)
        process = ShadowProcess(loader, recorder, counts, Budget(settings.shadow_cpu_share))
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: process, sock=sock)
        recording = asyncio.create_task(recorder.run())
        try:
            while not process.over.is_set():
                try:
                    async with asyncio.timeout(REPORT_S):
                        await process.over.wait()
                except TimeoutError:
                    pass
                process.report()
                for task in (recording, *process.tasks):
                    if task.done():
                        task.result()  # raises what a bug raised: the replica starts this process anew
        finally:
            await process.close()
            await ended(recording)
        with suppress(RedisError, OSError, QuantmeshError):  # they are counted
            await recorder.flush()
        process.report()
        transport.close()
